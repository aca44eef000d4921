//! Which versions talk to which: one function, one table.
//!
//! | protocol | spoken by | differs in |
//! |---|---|---|
//! | 1 | 0.1 | the first |

/// The oldest protocol version this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The newest protocol version this build speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// Returns the newest protocol version both sides speak, if there is one.
pub fn agree(theirs_min: u32, theirs_max: u32) -> Option<u32> {
    let newest = PROTOCOL_MAX.min(theirs_max);
    (newest >= PROTOCOL_MIN.max(theirs_min)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_agree_on_the_newest() {
        assert_eq!(agree(1, 9), Some(PROTOCOL_MAX));
    }

    #[test]
    fn ranges_apart_do_not_agree() {
        assert_eq!(agree(PROTOCOL_MAX + 1, PROTOCOL_MAX + 5), None);
        assert_eq!(agree(0, 0), None);
    }
}
