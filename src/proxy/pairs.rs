//! Lists of headers as the host passes them: a count, the lengths of each name and value, then the texts, each with a
//! zero behind it; numbers are 32 bits, least significant byte first.

/// A name and a value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// Reads a list; `None` where the bytes are not one.
pub fn decode(bytes: &[u8]) -> Option<Vec<Pair<'_>>> {
    let (count, mut sizes) = take_size(bytes)?;
    let mut texts = sizes.get(count.checked_mul(8)?..)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let (name_size, rest) = take_size(sizes)?;
        let (value_size, rest) = take_size(rest)?;
        sizes = rest;
        let (name, rest) = take_text(texts, name_size)?;
        let (value, rest) = take_text(rest, value_size)?;
        texts = rest;
        pairs.push((name, value));
    }
    Some(pairs)
}

/// Writes a list.
pub fn encode(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_size(&mut bytes, pairs.len());
    for (name, value) in pairs {
        push_size(&mut bytes, name.len());
        push_size(&mut bytes, value.len());
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

fn take_size(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*size)).ok()?, rest))
}

fn take_text(bytes: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let (text, rest) = bytes.split_at_checked(size)?;
    Some((text, rest.get(1..)?))
}

/// Lengths in a module of 32 bits always fit.
fn push_size(bytes: &mut Vec<u8>, size: usize) {
    bytes.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
}
