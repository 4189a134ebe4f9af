//! `google.protobuf.Struct`, which is how YAML in Envoy's own files reaches a plugin: Envoy hands over the bytes of the
//! message. Turned into the JSON that it stands for (protobuf's JSON mapping), and read as that.
//!
//! Source: `google/protobuf/struct.proto`, and the protobuf encoding's description.

use std::fmt::Write;

use crate::json::to_text;

/// Nesting beyond which nobody's configuration goes.
const MAX_DEPTH: u32 = 32;

/// The JSON text of an encoded `Struct`; `None` where the bytes are not one.
pub(super) fn struct_to_json(bytes: &[u8]) -> Option<String> {
    let mut json = String::new();
    write_struct(&mut json, bytes, MAX_DEPTH)?;
    Some(json)
}

/// A field of a message: its number and its value.
struct Field<'a> {
    number: u64,
    value: Value<'a>,
}

enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
}

fn write_struct(json: &mut String, bytes: &[u8], depth: u32) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let mut rest = bytes;
    let mut separator = '{';
    while !rest.is_empty() {
        let entry = take_bytes(&mut rest, 1)?;
        let mut fields = entry;
        let key = std::str::from_utf8(take_bytes(&mut fields, 1)?).ok()?;
        let value = take_bytes(&mut fields, 2)?;
        write!(json, "{separator}{}:", to_text(&key)).ok()?;
        write_value(json, value, depth)?;
        separator = ',';
    }
    json.push_str(if separator == '{' { "{}" } else { "}" });
    Some(())
}

fn write_list(json: &mut String, bytes: &[u8], depth: u32) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let mut rest = bytes;
    let mut separator = '[';
    while !rest.is_empty() {
        json.push(separator);
        write_value(json, take_bytes(&mut rest, 1)?, depth)?;
        separator = ',';
    }
    json.push_str(if separator == '[' { "[]" } else { "]" });
    Some(())
}

fn write_value(json: &mut String, bytes: &[u8], depth: u32) -> Option<()> {
    let mut rest = bytes;
    match take_field(&mut rest)? {
        Field { number: 1, value: Value::Varint(_) } => json.push_str("null"),
        Field { number: 2, value: Value::Fixed64(number) } => {
            let number = f64::from_le_bytes(number);
            number.is_finite().then(|| write!(json, "{number}"))?.ok()?;
        }
        Field { number: 3, value: Value::Bytes(text) } => json.push_str(&to_text(&std::str::from_utf8(text).ok()?)),
        Field { number: 4, value: Value::Varint(flag) } => json.push_str(if flag == 0 { "false" } else { "true" }),
        Field { number: 5, value: Value::Bytes(fields) } => write_struct(json, fields, depth)?,
        Field { number: 6, value: Value::Bytes(values) } => write_list(json, values, depth)?,
        _ => return None,
    }
    rest.is_empty().then_some(())
}

fn take_bytes<'a>(rest: &mut &'a [u8], number: u64) -> Option<&'a [u8]> {
    match take_field(rest)? {
        Field { number: found, value: Value::Bytes(bytes) } if found == number => Some(bytes),
        _ => None,
    }
}

fn take_field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    const WIRE_TYPE_BITS: u32 = 3;
    let tag = take_varint(rest)?;
    let number = tag >> WIRE_TYPE_BITS;
    let value = match tag & 7 {
        0 => Value::Varint(take_varint(rest)?),
        1 => {
            let (fixed, after) = rest.split_first_chunk::<8>()?;
            *rest = after;
            Value::Fixed64(*fixed)
        }
        2 => {
            let length = usize::try_from(take_varint(rest)?).ok()?;
            let (bytes, after) = rest.split_at_checked(length)?;
            *rest = after;
            Value::Bytes(bytes)
        }
        _ => return None,
    };
    Some(Field { number, value })
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"a": "x", "b": [true, 1.5, 300, null], "c": {}}`, encoded by hand.
    const ENCODED: &[u8] = b"\x0a\x08\x0a\x01a\x12\x03\x1a\x01x\
        \x0a\x25\x0a\x01b\x12\x20\x32\x1e\x0a\x02\x20\x01\x0a\x09\x11\0\0\0\0\0\0\xf8\x3f\x0a\x09\x11\0\0\0\0\0\xc0\x72\x40\x0a\x02\x08\0\
        \x0a\x07\x0a\x01c\x12\x02\x2a\0";

    #[test]
    fn a_struct_becomes_its_json() {
        assert_eq!(struct_to_json(ENCODED).unwrap(), r#"{"a":"x","b":[true,1.5,300,null],"c":{}}"#);
        assert_eq!(struct_to_json(b"").unwrap(), "{}");
    }

    #[test]
    fn anything_else_is_refused() {
        for cut in 1..ENCODED.len() {
            let is_whole_entry = [10, 49].contains(&cut);
            assert_eq!(struct_to_json(&ENCODED[..cut]).is_some(), is_whole_entry, "{cut}");
        }
        assert_eq!(struct_to_json(b"{}"), None);
        assert_eq!(struct_to_json(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }

    #[test]
    fn endless_nesting_is_refused() {
        let field = |tag: u8, mut content: Vec<u8>| {
            let mut field = vec![tag, u8::try_from(content.len()).unwrap()];
            field.append(&mut content);
            field
        };
        let mut value = b"\x1a\x00".to_vec();
        for _ in 0..=MAX_DEPTH {
            value = field(0x32, field(0x0a, value));
        }
        let whole = field(0x0a, [field(0x0a, b"a".to_vec()), field(0x12, value)].concat());
        assert_eq!(struct_to_json(&whole), None);
    }
}
