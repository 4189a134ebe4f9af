//! The little of protobuf that questions to etcd and its answers are made of, and gRPC's framing of one message.
//!
//! Source: protobuf's encoding (wire types 0, 1, 2 and 5); gRPC over HTTP/2, "Length-Prefixed-Message".

/// A message that is being written. Fields with the value 0 or without bytes are left out, as protobuf has it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// Adds a number.
    #[must_use]
    pub fn number(self, field: u32, value: u64) -> Self {
        if value == 0 { self } else { self.number_or_zero(field, value) }
    }

    /// Adds a number, also where it is 0: for fields of which one alone is there.
    #[must_use]
    pub fn number_or_zero(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        if !bytes.is_empty() {
            self.field_of_bytes(field, bytes);
        }
        self
    }

    /// Adds a message, also where it is empty.
    #[must_use]
    pub fn message(mut self, field: u32, message: &Self) -> Self {
        self.field_of_bytes(field, &message.0);
        self
    }

    /// Returns the message behind gRPC's frame: not compressed, and its length in 4 bytes.
    pub fn framed(self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        [&[0], &length.to_be_bytes()[..], &self.0].concat()
    }

    fn field_of_bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or_default());
    }
}

/// The fields of a message, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a>(&'a [u8]);

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Of wire type 0.
    Number(u64),
    /// Of wire type 2: bytes, text or a message.
    Bytes(&'a [u8]),
    /// Of a wire type that nothing here has.
    Other,
}

impl<'a> Fields<'a> {
    /// The fields of a message.
    pub const fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The fields of the one message behind gRPC's frame; `None` where that is cut off, compressed or not the only one.
    pub fn of_frame(frame: &'a [u8]) -> Option<Self> {
        let ([0], rest) = frame.split_first_chunk::<1>()? else { return None };
        let (length, message) = rest.split_first_chunk::<4>()?;
        let is_whole = usize::try_from(u32::from_be_bytes(*length)) == Ok(message.len());
        is_whole.then_some(Self(message))
    }

    /// All fields; `None` where the bytes are no message.
    pub fn read(self) -> Option<Vec<(u64, Value<'a>)>> {
        let mut rest = self.0;
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let tag = take_varint(&mut rest)?;
            let value = match tag & 7 {
                0 => Value::Number(take_varint(&mut rest)?),
                1 => {
                    take(&mut rest, 8)?;
                    Value::Other
                }
                2 => {
                    let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                    Value::Bytes(take(&mut rest, length)?)
                }
                5 => {
                    take(&mut rest, 4)?;
                    Value::Other
                }
                _ => return None,
            };
            fields.push((tag >> 3, value));
        }
        Some(fields)
    }

    /// The last number under a field's number; 0 where there is none.
    pub fn number(self, field: u64) -> Option<u64> {
        let numbers = self.read()?.into_iter().filter_map(|(number, value)| match value {
            Value::Number(value) if number == field => Some(value),
            _ => None,
        });
        Some(numbers.fold(0, |_, last| last))
    }

    /// The last bytes under a field's number; `None` inside where there are none.
    pub fn bytes(self, field: u64) -> Option<Option<&'a [u8]>> {
        Some(self.all_bytes(field)?.last().copied())
    }

    /// All bytes under a field's number, in their order.
    pub fn all_bytes(self, field: u64) -> Option<Vec<&'a [u8]>> {
        let bytes = self.read()?.into_iter().filter_map(|(number, value)| match value {
            Value::Bytes(bytes) if number == field => Some(bytes),
            _ => None,
        });
        Some(bytes.collect())
    }

    /// The message under a field's number; `None` inside where there is none.
    pub fn message(self, field: u64) -> Option<Option<Self>> {
        Some(self.bytes(field)?.map(Self))
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    const MOST_BYTES: u32 = 10;
    let mut value = 0_u64;
    for place in 0..MOST_BYTES {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        let bits = u64::from(byte & 0x7f);
        value |= bits.checked_shl(place.saturating_mul(7)).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().number(1, 300).bytes(2, b"key").number(3, 0).number_or_zero(6, 0);
        let frame = Message::default().message(4, &inner).message(4, &Message::default()).framed();
        let fields = Fields::of_frame(&frame).unwrap();
        assert_eq!(fields.all_bytes(4).unwrap().len(), 2);
        assert_eq!(fields.message(4), Some(Some(Fields(&[]))));
        let inner = Fields(fields.all_bytes(4).unwrap()[0]);
        assert_eq!((inner.number(1), inner.bytes(2)), (Some(300), Some(Some(&b"key"[..]))));
        assert_eq!((inner.number(3), inner.number(9), inner.bytes(9)), (Some(0), Some(0), Some(None)));
        assert_eq!(inner.read().unwrap().len(), 3);
    }

    #[test]
    fn numbers_of_all_lengths_survive() {
        for value in [1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let Message(bytes) = Message::default().number(7, value);
            assert_eq!(Fields(&bytes).number(7), Some(value));
        }
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let frame = Message::default().bytes(1, b"value").number(2, 1 << 40).framed();
        for length in 0..frame.len() {
            assert_eq!(Fields::of_frame(&frame[..length]), None);
        }
        let Message(bytes) = Message::default().bytes(1, b"value").number(2, 1 << 40);
        let whole = [7, bytes.len()];
        for length in (1..bytes.len()).filter(|length| !whole.contains(length)) {
            assert_eq!(Fields(&bytes[..length]).read(), None, "{length}");
        }
        assert_eq!(Fields(&[0xff; 11]).read(), None);
        assert_eq!(Fields(&[0x0f]).read(), None);
        assert_eq!(Fields(&[0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x0d, 1, 2, 3, 4]).read().map(|all| all.len()), Some(2));
    }
}
