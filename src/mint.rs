//! Minting: from a request for tokens to their text, handed out once.
//!
//! Lives here: the order in which mint judges, and what it stores. May not come in here: SQL, rules.

use crate::counters;
use crate::errors::{Error, Kind};
use crate::pg::{self, Call, Datum};
use crate::scope::{MintProblem, Scope};
use crate::settings;
use crate::store::{scopes, tokens};
use crate::token::{Prefix, Token};
use crate::values::{Span, TextArray};

/// The most bytes of a token's metadata, as a text. Whatever a token's issuer passes, a trigger can copy it, cast it
/// and write it to a log.
const METADATA_MAX: usize = 65_536;

/// The most levels of objects and arrays in it. Parsers have limits of their own, and what one has read another may not: clients,
/// or a subscriber, where that ends replication.
const LEVELS_MAX: usize = 64;

/// What every token of one call shares. NULL is `None`.
pub struct Request<'call> {
    pub scope: Option<&'call [u8]>,
    pub ttl: Option<Span>,
    pub metadata: Option<Datum>,
    pub max_uses: Option<i32>,
    /// Whether to delete the earlier tokens of the scope and resource id.
    pub replace: bool,
}

impl<'call> Request<'call> {
    /// Judges the scope, then the TTL, then every resource id, then the uses, then the metadata. This comes after whatever waits for
    /// other transactions: meanwhile the scope may have changed, or gone.
    fn admit(&self, call: &Call<'call>, resource_ids: &[Option<&[u8]>]) -> Result<tokens::Mint<'call>, Error> {
        let (now, name) = (pg::now(), self.scope.unwrap_or_default());
        let judge = |scope: &Scope| -> Result<_, MintProblem> {
            let expires_at_ms = scope.expires_at_ms(now, self.ttl)?;
            resource_ids.iter().try_for_each(|id| scope.accepts(*id))?;
            Ok((expires_at_ms, scope.uses_left(self.max_uses)?))
        };
        let judged = scopes::with(call, name, judge)?.ok_or_else(|| Error::scope_unknown(name))?;
        let (expires_at_ms, uses_left) = judged.map_err(|problem| Error::mint(problem, name))?;
        let text = self.metadata.map_or(&[][..], |metadata| pg::jsonb_text(call, metadata));
        if text.len() > METADATA_MAX {
            return Err(Error::metadata_too_large(text.len(), METADATA_MAX));
        }
        if levels(text) > LEVELS_MAX {
            return Err(Kind::MetadataTooDeep.into());
        }
        Ok(tokens::Mint { scope: name, created_at: now, expires_at_ms, uses_left, metadata: self.metadata })
    }
}

/// Mints one token: its text.
pub fn one(call: &Call<'_>, request: &Request<'_>, resource_id: Option<&[u8]>) -> Result<Datum, Error> {
    tokens::lock_to_mint()?;
    if request.replace {
        tokens::replace(request.scope.unwrap_or_default(), resource_id.unwrap_or_default())?;
    }
    let mint = request.admit(call, &[resource_id])?;
    let token = Token::generate(mint.expires_at_ms).ok_or(Kind::NoRandomness)?;
    let text = text(&token, settings::token_prefix());
    tokens::insert(&mint, token.id(), token.digest(), resource_id.unwrap_or_default())?;
    counters::add(Some(mint.scope), counters::MINTED, 1);
    Ok(text)
}

/// Tokens with the resource ids that they are bound to, in the order asked for.
pub struct Pairs<'call> {
    pub resource_ids: &'call [Datum],
    pub tokens: &'call [Datum],
}

/// Mints a token for each of the resource ids, all or none. They come as a text[] and as the value that it is.
pub fn many<'call>(
    call: &Call<'call>,
    request: &Request<'call>,
    resource_ids: Option<(&TextArray<'call>, Datum)>,
) -> Result<Pairs<'call>, Error> {
    let (array, value) = resource_ids.filter(|(array, _)| array.dimensions <= 1).ok_or(Kind::InvalidArray)?;
    if array.length > TextArray::LENGTH_MAX {
        return Err(Kind::TooManyResourceIds.into());
    }
    tokens::lock_to_mint()?;
    if request.replace {
        require_different(call, array.elements)?;
        tokens::replace_many(request.scope.unwrap_or_default(), value)?;
    }
    let mint = request.admit(call, array.elements)?;
    let prefix = settings::token_prefix();
    // There may be a million: all are in memory of the call, which PostgreSQL allocates and frees.
    let minted = pg::list(call, std::iter::repeat_n(Token::NONE, array.elements.len()));
    Token::generate_many(mint.expires_at_ms, minted).ok_or(Kind::NoRandomness)?;
    let new = |token: &Token| {
        pg::check_for_interrupts();
        tokens::New { id: token.id(), digest: token.digest() }
    };
    tokens::insert_many(call, &mint, pg::list(call, minted.iter().map(new)), value)?;
    counters::add(Some(mint.scope), counters::MINTED, minted.len() as u64);
    Ok(Pairs {
        resource_ids: pg::list(call, array.elements.iter().map(|id| pg::varlena(id.unwrap_or_default()))),
        tokens: pg::list(call, minted.iter().map(|token| text(token, prefix))),
    })
}

/// With `replace`, of two tokens for one resource id neither would be the newest.
fn require_different(call: &Call<'_>, resource_ids: &[Option<&[u8]>]) -> Result<(), Error> {
    let sorted = pg::list(call, resource_ids.iter().copied());
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) { Err(Kind::RepeatedResourceId.into()) } else { Ok(()) }
}

/// How deep the objects and arrays of a JSON text are nested.
fn levels(json: &[u8]) -> usize {
    let (mut level, mut deepest, mut in_string, mut bytes) = (0_usize, 0, false, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => _ = bytes.next(),
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn text(token: &Token, prefix: Prefix) -> Datum {
    pg::varlena(token.text(prefix).as_bytes())
}
