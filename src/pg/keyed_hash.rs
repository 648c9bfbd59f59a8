//! A hash that nobody can compute who does not know a secret of this server's.

use std::slice;

use pgrx::pg_sys;
use sha2::{Digest as _, Sha256};

/// The hash of `parts`, keyed with random bytes that initdb has put into the control file, and that no SQL shows
/// (access/xlog.h). So nobody can look for the parts that a hash is of, or choose some whose hashes begin alike.
pub(super) fn keyed_hash(parts: &[&[u8]]) -> [u8; 32] {
    // SAFETY: the server has read the control file, and it has so many bytes of these.
    let secret: &[u8] = unsafe {
        slice::from_raw_parts(pg_sys::GetMockAuthenticationNonce().cast(), pg_sys::MOCK_AUTH_NONCE_LEN as usize)
    };
    let mut hasher = Sha256::new_with_prefix(secret);
    for part in parts {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}
