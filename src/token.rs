//! Token rules: the text of a token, its id, its digest.
//!
//! Lives here: how a token is made, written, read and compared. May not come in here: anything of PostgreSQL, of
//! scopes, of storage. These are pure functions over bytes, but for the operating system's random generator.

use std::fmt;

use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of a token id: a UUID.
pub const ID_LEN: usize = 16;
/// Bytes of a token's secret: 256 random bits.
pub const SECRET_LEN: usize = 32;
/// Random bytes that a token is made of: those of its id, then its secret.
const RANDOM_LEN: usize = 10 + SECRET_LEN;
/// Bytes of the stored digest: SHA-256.
pub const DIGEST_LEN: usize = 32;
/// The longest prefix, in characters.
pub const PREFIX_MAX: usize = 16;
/// The latest expiry that an id can carry: 48 bits of Unix milliseconds, the year 10889.
pub const EXPIRES_AT_MAX_MS: u64 = (1 << 48) - 1;

/// Hexadecimal digits of a token's text: its id, then its secret.
const DIGITS: usize = 2 * (ID_LEN + SECRET_LEN);
const TEXT_MAX: usize = PREFIX_MAX + 1 + DIGITS;

/// The public name of a token: a UUID of version 8 (RFC 9562, section 5.8) that leads with the expiry time, so that ids
/// sort by it. Worth nothing without the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId([u8; ID_LEN]);

impl TokenId {
    /// An id from its bytes, as stored.
    pub fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes in the order of the UUID's text.
    pub fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }

    /// The id of a token that expires at `expires_at_ms` (Unix milliseconds, at most [`EXPIRES_AT_MAX_MS`]):
    /// 48 bits of time, version, variant, and 74 of the 80 bits of `random`.
    fn new(expires_at_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = Self::last_at(expires_at_ms).0;
        bytes[6..].copy_from_slice(&random);
        bytes[6] = 0x80 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self(bytes)
    }

    /// The smallest of all ids.
    pub const FIRST: Self = Self([0; ID_LEN]);

    /// The greatest id that a token expiring at `expires_at_ms` (Unix milliseconds) or earlier can have: a bound for
    /// walking ids in order of expiry. Times past the range count as its end.
    pub fn last_at(expires_at_ms: u64) -> Self {
        let mut bytes = [0xff; ID_LEN];
        let time = expires_at_ms.min(EXPIRES_AT_MAX_MS).to_be_bytes();
        bytes[..6].copy_from_slice(&time[2..]);
        Self(bytes)
    }

    /// Whether the version and variant bits are those of every id minted here.
    fn is_well_formed(&self) -> bool {
        self.0[6] >> 4 == 8 && self.0[8] >> 6 == 2
    }
}

impl fmt::Display for TokenId {
    /// The UUID's text.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(out, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
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

/// A token in the clear. Neither `Debug` nor `Display`, so that no message or panic can print it.
#[derive(Clone, Copy)]
pub struct Token {
    id: TokenId,
    secret: [u8; SECRET_LEN],
}

impl Token {
    /// A new token that expires at `expires_at_ms` (Unix milliseconds, at most [`EXPIRES_AT_MAX_MS`]), random straight
    /// from the operating system: a generator kept in memory would be copied into every forked backend. `None` when the
    /// operating system gives no randomness.
    pub fn generate(expires_at_ms: u64) -> Option<Self> {
        let mut random = [0; RANDOM_LEN];
        SysRng.try_fill_bytes(&mut random).ok()?;
        Some(Self::from_random(expires_at_ms, &random))
    }

    /// Replaces `tokens` by new ones, as of [`Self::generate`], in the order of their ids. Rows that are stored in that order
    /// are swept page by page.
    pub fn generate_many(expires_at_ms: u64, tokens: &mut [Self]) -> Option<()> {
        // In chunks: a system call costs as much as making a token.
        let mut random = [[0; RANDOM_LEN]; 64];
        for chunk in tokens.chunks_mut(random.len()) {
            let random = &mut random[..chunk.len()];
            SysRng.try_fill_bytes(random.as_flattened_mut()).ok()?;
            for (token, bits) in chunk.iter_mut().zip(random) {
                *token = Self::from_random(expires_at_ms, bits);
            }
        }
        tokens.sort_unstable_by_key(|token| token.id);
        Some(())
    }

    /// Room for a token that is generated later.
    pub const NONE: Self = Self { id: TokenId::FIRST, secret: [0; SECRET_LEN] };

    fn from_random(expires_at_ms: u64, random: &[u8; RANDOM_LEN]) -> Self {
        let (mut id_bits, mut secret) = ([0; RANDOM_LEN - SECRET_LEN], [0; SECRET_LEN]);
        let (for_id, for_secret) = random.split_at(id_bits.len());
        id_bits.copy_from_slice(for_id);
        secret.copy_from_slice(for_secret);
        Self { id: TokenId::new(expires_at_ms, id_bits), secret }
    }

    /// Reads a token's text: a prefix of lower-case letters, digits and `_` (any: it grants nothing), `_`, and 96
    /// lower-case hexadecimal digits. Anything else, of whatever length or bytes, is `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let (head, digits) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
        let (underscore, prefix) = head.split_last()?;
        if *underscore != b'_' || !prefix_is_valid(prefix) || !is_lower_hex(digits) {
            return None;
        }
        let mut id = [0; ID_LEN];
        let mut secret = [0; SECRET_LEN];
        let (for_id, for_secret) = digits.split_at(2 * ID_LEN);
        decode_lower_hex(for_id, &mut id);
        decode_lower_hex(for_secret, &mut secret);
        let id = TokenId(id);
        id.is_well_formed().then_some(Self { id, secret })
    }

    /// Every piece of `text` that could be a token, with or without other text around it, in order of appearance.
    pub fn candidates(text: &[u8]) -> impl Iterator<Item = &[u8]> {
        (1..text.len().saturating_sub(DIGITS))
            .filter(|at| text[*at] == b'_')
            // One character of prefix is enough: the prefix grants nothing.
            .map(|at| &text[at - 1..at + 1 + DIGITS])
    }

    /// Id and secret, for a set of tokens.
    pub fn key(&self) -> [u8; ID_LEN + SECRET_LEN] {
        let mut key = [0; ID_LEN + SECRET_LEN];
        key[..ID_LEN].copy_from_slice(&self.id.0);
        key[ID_LEN..].copy_from_slice(&self.secret);
        key
    }

    /// The public id.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The digest that the database keeps.
    pub fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(self.id.0);
        hasher.update(self.secret);
        Digest(hasher.finalize().into())
    }

    /// The text to hand out, once.
    pub fn text(&self, prefix: Prefix) -> TokenText {
        let prefix = &prefix.bytes[..prefix.length];
        let mut bytes = [b'_'; TEXT_MAX];
        let start = prefix.len() + 1;
        bytes[..prefix.len()].copy_from_slice(prefix);
        let (id, secret) = bytes[start..start + DIGITS].split_at_mut(2 * ID_LEN);
        // Lengths are twice those of the inputs, the only thing that this can refuse.
        hex::encode_to_slice(self.id.0, id).expect("an id has 32 digits");
        hex::encode_to_slice(self.secret, secret).expect("a secret has 64 digits");
        TokenText { bytes, len: start + DIGITS }
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
    len: usize,
}

impl TokenText {
    /// ASCII, as handed out.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
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

/// Decodes `digits`, which are lower-case hexadecimal, into `bytes`, half as many. It has no branches: those of a decoder
/// that checks as it goes would be the slowest part of validation after the lookup.
fn decode_lower_hex(digits: &[u8], bytes: &mut [u8]) {
    let value = |digit: u8| (digit & 0x0f) + 9 * (digit >> 6);
    let (pairs, _) = digits.as_chunks();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(*high) << 4 | value(*low);
    }
}

fn is_lower_hex(digits: &[u8]) -> bool {
    // Without an early return, so that the compiler uses vector instructions.
    digits.iter().fold(true, |so_far, byte| so_far & (byte.is_ascii_digit() | matches!(byte, b'a'..=b'f')))
}
