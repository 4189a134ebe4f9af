//! The value of a record in a shared store: which moves wrote it last, and what they wrote.

use crate::time::UnixTime;

/// The form of the values, their first byte. A later form has another number, and is not read by this one.
const FORM: u8 = 1;

/// Moves that a value names.
const MOVES: usize = 4;

/// A record's value: form, the time of the last move (seconds, 8 bytes, most significant first, by its proxy's clock), the numbers of
/// the last moves (8 bytes each, the latest first; 0: none), and what is recorded. Nothing recorded is as good as no record, but has a revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Value {
    pub(super) moved_at: UnixTime,
    moves: [u64; MOVES],
    pub(super) record: Option<Vec<u8>>,
}

impl Value {
    /// The value that a move makes of this one.
    pub(super) fn after(&self, number: u64, record: Option<Vec<u8>>, now: UnixTime) -> Self {
        let [first, second, third, _] = self.moves;
        Self { moved_at: now, moves: [number, first, second, third], record }
    }

    /// Returns whether it was the last move that wrote it.
    pub(super) fn was_written_by(&self, number: u64) -> bool {
        self.moves.first() == Some(&number)
    }

    /// Returns whether a move is among those that wrote it.
    pub(super) fn names(&self, number: u64) -> bool {
        self.moves.contains(&number)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let record = self.record.as_deref().unwrap_or_default();
        let mut bytes = vec![FORM];
        bytes.extend_from_slice(&self.moved_at.as_secs().to_be_bytes());
        bytes.extend(self.moves.iter().flat_map(|number| number.to_be_bytes()));
        bytes.extend_from_slice(record);
        bytes
    }

    /// Reads a value; `None` where it has another form.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let ([FORM], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (moved_at, rest) = rest.split_first_chunk::<8>()?;
        let (numbers, record) = rest.split_at_checked(MOVES.saturating_mul(8))?;
        let mut moves = [0; MOVES];
        for (place, number) in moves.iter_mut().zip(numbers.as_chunks::<8>().0) {
            *place = u64::from_be_bytes(*number);
        }
        let moved_at = UnixTime::from_secs(u64::from_be_bytes(*moved_at));
        Some(Self { moved_at, moves, record: Some(record.to_vec()).filter(|record| !record.is_empty()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_last_moves_and_survives_the_store() {
        let mut value = Value::default();
        for number in 1..=6 {
            value = value.after(number, Some(vec![7; 3]), UnixTime::from_secs(number));
        }
        assert!(value.was_written_by(6) && value.names(3) && !value.names(2));
        assert_eq!(Value::decode(&value.encode()), Some(value.clone()));
        let gone = value.after(9, None, UnixTime::from_secs(9));
        assert_eq!(Value::decode(&gone.encode()), Some(gone));
    }

    #[test]
    fn another_form_is_not_read() {
        let mut bytes = Value::default().encode();
        bytes[0] = 2;
        assert_eq!(Value::decode(&bytes), None);
        assert_eq!(Value::decode(&[]), None);
        assert_eq!(Value::decode(&[1; 40]), None);
    }
}
