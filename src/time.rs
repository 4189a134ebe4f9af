//! Points in time and spans of time, as the outside gives them.

use std::time::Duration;

use crate::money::Decimal;

/// Seconds since 1970-01-01T00:00:00Z, as block timestamps count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// A point in time from whole seconds since the epoch.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The time `seconds` later; stays at the end of time rather than wrap.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

/// Parses a duration as protobuf's JSON mapping writes it: decimal seconds with the suffix `s` (`10s`, `0.5s`).
///
/// `None` where the text is not of that form, is finer than a nanosecond or exceeds `u64` nanoseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const NANOSECOND_DIGITS: u32 = 9;
    let seconds = Decimal::parse(text.strip_suffix('s')?).ok()?;
    let nanoseconds = seconds.to_units(NANOSECOND_DIGITS).ok()?;
    Some(Duration::from_nanos(u64::try_from(nanoseconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_decimal_seconds() {
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("0.25s"), Some(Duration::from_millis(250)));
        for wrong in ["", "s", "10", "10ms", "-1s", "1h", ".5s", "1.0000000001s", "99999999999999999999s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn time_does_not_wrap() {
        assert_eq!(UnixTime::from_secs(u64::MAX).plus(1), UnixTime::from_secs(u64::MAX));
    }
}
