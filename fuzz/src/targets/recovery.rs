//! Who signed: Bitcoin Core's library, which the filter asks, and k256.
//!
//! An input is four bytes that choose the kinds of a digest, of `r`, of `s` and of what is wrong with them, and whatever else the numbers are
//! drawn from.

use crate::common::curve;

pub(super) fn run(input: &[u8]) {
    curve::check(input);
}
