//! Shapes of SQL values, which the rules and the seam to the server both use.
//!
//! Lives here: plain data without PostgreSQL's types. May not come in here: rules, conversions.

use std::fmt;

const MICROS_A_DAY: i128 = 86_400_000_000;

/// An interval as PostgreSQL stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

impl Span {
    /// The length in microseconds. A day counts as 24 hours in every time zone. `None` if the interval has months, which
    /// have no fixed length, is infinite, is not positive, or does not fit into 64 bits.
    pub fn length(self) -> Option<i64> {
        if self.months != 0 {
            return None;
        }
        i64::try_from(self.micros_without_months()).ok().filter(|length| *length > 0)
    }

    fn micros_without_months(self) -> i128 {
        i128::from(self.days) * MICROS_A_DAY + i128::from(self.micros)
    }

    /// PostgreSQL 17 and later store infinity like this. Earlier majors accept no interval of this size.
    const INFINITY: Self = Self { months: i32::MAX, days: i32::MAX, micros: i64::MAX };
    const MINUS_INFINITY: Self = Self { months: i32::MIN, days: i32::MIN, micros: i64::MIN };
}

impl fmt::Display for Span {
    /// The length with its unit, at most 100 bytes.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.micros_without_months();
        match (*self, self.months) {
            (Self::INFINITY, _) => write!(out, "infinity"),
            (Self::MINUS_INFINITY, _) => write!(out, "-infinity"),
            (_, 0) => write!(out, "{}", Seconds(micros)),
            (_, months) => {
                write!(out, "{months} month{}", if months == 1 { "" } else { "s" })?;
                if micros != 0 {
                    write!(out, " and {}", Seconds(micros))?;
                }
                write!(out, ", and a month has no fixed length")
            }
        }
    }
}

/// Microseconds, displayed as seconds.
pub struct Seconds(pub i128);

impl fmt::Display for Seconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, micros) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        write!(out, "{sign}{}", micros / 1_000_000)?;
        if micros % 1_000_000 != 0 {
            write!(out, ".{}", format!("{:06}", micros % 1_000_000).trim_end_matches('0'))?;
        }
        write!(out, " second{}", if micros == 1_000_000 { "" } else { "s" })
    }
}

/// A text[]: any number of dimensions, and NULL among its elements.
pub struct TextArray<'a> {
    pub dimensions: i32,
    /// Number of elements.
    pub length: usize,
    /// The elements. Empty if there are more than [`Self::LENGTH_MAX`].
    pub elements: &'a [Option<&'a [u8]>],
}

impl TextArray<'_> {
    /// The longest array whose elements are read.
    pub const LENGTH_MAX: usize = 1_000_000;
}

/// An allocation failed. Whatever a caller sizes must fail like this: where Rust's own allocations fail, the process ends
/// and the server restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// A copy of `bytes` on Rust's heap.
pub fn to_box(bytes: &[u8]) -> Result<Box<[u8]>, OutOfMemory> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| OutOfMemory)?;
    copy.extend_from_slice(bytes);
    Ok(copy.into_boxed_slice())
}
