//! Token rules: the text of a token, its id, its digest.
//!
//! Lives here: how a token is made, written, read and compared. May not come in here: anything of PostgreSQL, of
//! scopes, of storage. These are pure functions over bytes, but for the operating system's random generator.

use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use uuid::{Uuid, Variant};

/// Bytes of a token: its id, then its secret of 256 random bits.
const LEN: usize = ID_LEN + 32;
const ID_LEN: usize = 16;
/// Bytes of the stored digest: SHA-256.
const DIGEST_LEN: usize = 32;
/// The longest prefix, in characters.
const PREFIX_MAX: usize = 16;
/// The latest expiry that an id can carry: 48 bits of Unix milliseconds, the year 10889.
pub const EXPIRES_AT_MAX_MS: u64 = (1 << 48) - 1;

/// Hexadecimal digits of a token's text.
const DIGITS: usize = 2 * LEN;
const TEXT_MAX: usize = PREFIX_MAX + 1 + DIGITS;

/// The public name of a token: a UUID of version 8 (RFC 9562, section 5.8) that leads with the expiry time, so that ids
/// sort by it. Worth nothing without the secret.
pub type TokenId = Uuid;

/// The greatest id that a token expiring at `expires_at_ms` (Unix milliseconds) or earlier can have: a bound for walking
/// ids in order of expiry. Times past the range count as its end.
pub fn last_id_at(expires_at_ms: u64) -> TokenId {
    Uuid::from_u128(u128::from(expires_at_ms.min(EXPIRES_AT_MAX_MS)) << 80 | ((1 << 80) - 1))
}

/// What is stored of a token beside its id: SHA-256 over id and secret.
#[derive(Clone, Copy)]
pub struct Digest([u8; DIGEST_LEN]);

impl Digest {
    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }

    /// Whether `stored` is this digest, in time that does not depend on where they differ.
    pub fn matches(&self, stored: &[u8]) -> bool {
        // By words: a comparison in constant time costs as much for each as for a byte.
        let words = |digest: &[u8; DIGEST_LEN]| -> [u64; DIGEST_LEN / 8] {
            let (words, _) = digest.as_chunks();
            std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
        };
        stored.try_into().is_ok_and(|stored| words(&self.0).ct_eq(&words(stored)).into())
    }
}

/// A token in the clear: its id, then its secret. Neither `Debug` nor `Display`, so that no message or panic can print it.
#[derive(Clone, Copy)]
pub struct Token([u8; LEN]);

impl Token {
    /// Room for a token that is generated later.
    pub const NONE: Self = Self([0; LEN]);

    /// A new token that expires at `expires_at_ms` (Unix milliseconds, at most [`EXPIRES_AT_MAX_MS`]), random straight
    /// from the operating system: a generator kept in memory would be copied into every forked backend. `None` when the
    /// operating system gives no randomness.
    pub fn generate(expires_at_ms: u64) -> Option<Self> {
        let mut random = [0; LEN];
        SysRng.try_fill_bytes(&mut random).ok()?;
        Some(Self::from_random(expires_at_ms, random))
    }

    /// Replaces `tokens` by new ones, as of [`Self::generate`], in the order of their ids. Rows that are stored in that order
    /// are swept page by page.
    pub fn generate_many(expires_at_ms: u64, tokens: &mut [Self]) -> Option<()> {
        // In chunks: a system call costs as much as making a token.
        let mut random = [[0; LEN]; 64];
        for chunk in tokens.chunks_mut(random.len()) {
            let random = &mut random[..chunk.len()];
            SysRng.try_fill_bytes(random.as_flattened_mut()).ok()?;
            for (token, bytes) in chunk.iter_mut().zip(random) {
                *token = Self::from_random(expires_at_ms, *bytes);
            }
        }
        tokens.sort_unstable_by_key(Self::id);
        Some(())
    }

    /// Writes time, version and variant over random bytes.
    fn from_random(expires_at_ms: u64, mut bytes: [u8; LEN]) -> Self {
        bytes[..6].copy_from_slice(&expires_at_ms.to_be_bytes()[2..]);
        bytes[6] = 0x80 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self(bytes)
    }

    /// Reads a token's text: a prefix of lower-case letters, digits and `_` (any: it grants nothing), `_`, and 96
    /// lower-case hexadecimal digits. Anything else, of whatever length or bytes, is `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (head, digits) = text.split_last_chunk()?;
        if !prefix_is_valid(head.strip_suffix(b"_")?) || !is_lower_hex(digits) {
            return None;
        }
        let token = Self(decode_lower_hex(digits));
        // The version and variant of every id minted here.
        (token.id().get_version_num() == 8 && token.id().get_variant() == Variant::RFC4122).then_some(token)
    }

    /// Every piece of `text` that could be a token, with or without other text around it, in order of appearance.
    pub fn candidates(text: &[u8]) -> impl Iterator<Item = &[u8]> {
        (1..text.len().saturating_sub(DIGITS))
            .filter(|at| text[*at] == b'_')
            // One character of prefix is enough: the prefix grants nothing.
            .map(|at| &text[at - 1..at + 1 + DIGITS])
    }

    /// The public id.
    pub fn id(&self) -> TokenId {
        Uuid::from_bytes(std::array::from_fn(|at| self.0[at]))
    }

    /// The digest that the database keeps.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.0).into())
    }

    /// The text to hand out, once.
    pub fn text(&self, prefix: Prefix) -> TokenText {
        let mut bytes = [b'_'; TEXT_MAX];
        bytes[..prefix.length].copy_from_slice(&prefix.bytes[..prefix.length]);
        let start = prefix.length + 1;
        let length = start + DIGITS;
        hex::encode_to_slice(self.0, &mut bytes[start..length]).expect("each byte has two digits");
        TokenText { bytes, length }
    }
}

/// What the text of a token starts with, before an underscore.
#[derive(Clone, Copy)]
pub struct Prefix {
    bytes: [u8; PREFIX_MAX],
    length: usize,
}

impl Prefix {
    /// `None` where [`prefix_is_valid`] says no.
    pub fn new(text: &[u8]) -> Option<Self> {
        prefix_is_valid(text).then(|| {
            let mut bytes = [0; PREFIX_MAX];
            bytes[..text.len()].copy_from_slice(text);
            Self { bytes, length: text.len() }
        })
    }
}

/// The text of a token, kept off the heap.
pub struct TokenText {
    bytes: [u8; TEXT_MAX],
    length: usize,
}

impl TokenText {
    /// ASCII, as handed out.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Whether a token has expired at `now`: from the moment `expires_at` itself on. Both in microseconds of one epoch.
pub fn has_expired(expires_at: i64, now: i64) -> bool {
    expires_at <= now
}

/// Whether `prefix` can lead a token: 1 to 16 lower-case ASCII letters, digits and `_`.
pub fn prefix_is_valid(prefix: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
    !prefix.is_empty() && prefix.len() <= PREFIX_MAX && prefix.iter().all(allowed)
}

/// Whether a token, or a good part of one, may stand in `text`: 24 or more hexadecimal digits in a row, of either case.
/// Such a text of a caller is not repeated in a message.
pub fn may_hold_secret(text: &[u8]) -> bool {
    const SUSPECT: usize = 24;
    text.split(|byte| !byte.is_ascii_hexdigit()).any(|digits| digits.len() >= SUSPECT)
}

/// Decodes `digits`, which are lower-case hexadecimal. It has no branches: those of a decoder that checks as it goes would
/// be the slowest part of validation after the lookup.
fn decode_lower_hex(digits: &[u8; DIGITS]) -> [u8; LEN] {
    let value = |digit: u8| (digit & 0x0f) + 9 * (digit >> 6);
    let mut bytes = [0; LEN];
    // As many at once as the compiler has vector instructions for.
    for (bytes, digits) in bytes.chunks_exact_mut(16).zip(digits.chunks_exact(32)) {
        for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks().0) {
            *byte = value(*high) << 4 | value(*low);
        }
    }
    bytes
}

fn is_lower_hex(digits: &[u8; DIGITS]) -> bool {
    // Without an early return, so that the compiler uses vector instructions.
    digits.iter().fold(true, |so_far, byte| so_far & (byte.is_ascii_digit() | matches!(byte, b'a'..=b'f')))
}
