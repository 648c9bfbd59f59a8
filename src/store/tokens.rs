//! The table `temp_tokens`: read by primary key, written by statements.

use std::ffi::CStr;
use std::sync::atomic::Ordering;

use super::TEMP_TOKENS;
use crate::errors::Error;
use crate::pg::{
    self, Bytea, Bytes, Call, Datum, ElementType, Int4, Int8, Jsonb, Key, Oid, SqlType as _, Statement, TableChanged,
    Text, TextList, Timestamptz, Tuple, Uuid,
};
use crate::token::{Digest, TokenId};

/// The names of the columns, in order (sql/tables.sql).
pub(super) const NAMES: &[&CStr] =
    &[c"id", c"token_hash", c"scope", c"resource_id", c"created_at", c"expires_at", c"uses_left", c"metadata"];
/// Their types.
pub(super) const COLUMNS: &[Oid] =
    &[Uuid::OID, Bytea::OID, Text::OID, Text::OID, Timestamptz::OID, Timestamptz::OID, Int4::OID, Jsonb::OID];

/// A stored token. Times are Unix microseconds.
#[derive(Clone, Copy)]
pub struct TokenRow<'call> {
    pub id: TokenId,
    /// The id as the uuid that it is stored as.
    pub id_value: Datum,
    pub token_hash: Bytes<'call>,
    pub scope: Bytes<'call>,
    pub resource_id: Bytes<'call>,
    pub created_at: i64,
    pub expires_at: i64,
    pub uses_left: Option<i32>,
    pub metadata: Option<Datum>,
}

impl TokenRow<'_> {
    /// Whether both are the same in everything that validation judges.
    pub fn is_same(&self, other: &Self) -> bool {
        let judged = |row: &Self| (row.expires_at, row.uses_left);
        judged(self) == judged(other)
            && self.token_hash.bytes == other.token_hash.bytes
            && self.scope.bytes == other.scope.bytes
            && self.resource_id.bytes == other.resource_id.bytes
    }
}

/// The token `id`, as it is committed now or changed by this transaction.
pub fn find<'call>(call: &Call<'call>, id: TokenId) -> Result<Option<TokenRow<'call>>, Error> {
    static SELECT: Statement = Statement::reading(
        c"SELECT id, token_hash, scope, resource_id, created_at, expires_at, uses_left, metadata
          FROM temptoken.temp_tokens WHERE id = $1",
        &[Uuid::OID],
    );
    let key = Key::uuid(id.as_bytes());
    let tuple = TEMP_TOKENS.locked(|oid, is_current| {
        if TEMP_TOKENS.has_rows.load(Ordering::Relaxed) {
            return pg::find(call, oid, is_current, &key);
        }
        pg::lock_for_reading(oid)?;
        if is_current() { SELECT.run_for_row(call, oid, &[Some(pg::uuid(id.as_bytes()))]) } else { Err(TableChanged) }
    })?;
    Ok(tuple.and_then(|tuple| row(id, &tuple)))
}

/// `None` if one of the first six columns is NULL, which only a dropped NOT NULL allows.
fn row<'call>(id: TokenId, tuple: &Tuple<'call>) -> Option<TokenRow<'call>> {
    Some(TokenRow {
        id,
        id_value: tuple.datum(1)?,
        token_hash: tuple.bytes(2)?,
        scope: tuple.bytes(3)?,
        resource_id: tuple.bytes(4)?,
        created_at: tuple.get::<Timestamptz>(5)?,
        expires_at: tuple.get::<Timestamptz>(6)?,
        uses_left: tuple.get::<Int4>(7),
        metadata: tuple.get::<Jsonb>(8),
    })
}

/// What all tokens of one call of mint share. `created_at` is in Unix microseconds, `expires_at_ms` in Unix milliseconds.
#[derive(Clone, Copy)]
pub struct Mint<'a> {
    pub scope: &'a [u8],
    pub created_at: i64,
    pub expires_at_ms: u64,
    pub uses_left: Option<i32>,
    pub metadata: Option<Datum>,
}

impl Mint<'_> {
    fn columns(&self, id: Datum, token_hash: Datum, resource_id: Datum) -> [Option<Datum>; COLUMNS.len()] {
        [
            Some(id),
            Some(token_hash),
            Some(pg::varlena(self.scope)),
            Some(resource_id),
            Some(pg::timestamptz(self.created_at)),
            Some(pg::timestamptz(self.expires_at())),
            self.uses_left.map(Datum::from),
            self.metadata,
        ]
    }

    /// In Unix microseconds.
    fn expires_at(&self) -> i64 {
        self.expires_at_ms as i64 * 1000
    }
}

/// Stores one token.
pub fn insert(mint: &Mint<'_>, id: TokenId, digest: Digest, resource_id: &[u8]) -> Result<(), Error> {
    static INSERT: Statement = Statement::writing(
        c"INSERT INTO temptoken.temp_tokens
              (id, token_hash, scope, resource_id, created_at, expires_at, uses_left, metadata)
          VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        COLUMNS,
    );
    let columns = mint.columns(pg::uuid(id.as_bytes()), pg::varlena(digest.as_bytes()), pg::varlena(resource_id));
    INSERT.run(TEMP_TOKENS.oid()?, &columns)?;
    Ok(())
}

/// A token for [`insert_many`].
#[derive(Clone, Copy)]
pub struct New {
    pub id: TokenId,
    pub digest: Digest,
}

/// Stores many tokens, fastest in the order of their ids. `resource_ids` is a text[] of theirs, in the same order.
pub fn insert_many(call: &Call<'_>, mint: &Mint<'_>, tokens: &[New], resource_ids: Datum) -> Result<(), Error> {
    static INSERT: Statement = Statement::writing(
        c"INSERT INTO temptoken.temp_tokens
              (id, token_hash, scope, resource_id, created_at, expires_at, uses_left, metadata)
          SELECT unnest($1), unnest($2), $3, unnest($4), $5, $6, $7, $8",
        &[
            pg::UUID_ARRAY,
            pg::BYTEA_ARRAY,
            Text::OID,
            TextList::OID,
            Timestamptz::OID,
            Timestamptz::OID,
            Int4::OID,
            Jsonb::OID,
        ],
    );
    let ids = tokens.iter().map(|token| pg::uuid(token.id.as_bytes()));
    let token_hashes = tokens.iter().map(|token| pg::varlena(token.digest.as_bytes()));
    let ids = pg::array(call, ids, ElementType::Uuid);
    let token_hashes = pg::array(call, token_hashes, ElementType::Bytea);
    INSERT.run(TEMP_TOKENS.oid()?, &mint.columns(ids, token_hashes, resource_ids))?;
    Ok(())
}

/// Locks the table until the transaction ends, for a mint that is to be judged. Who has changed a scope can wait for this lock: then
/// there is no token to come that was judged before.
pub fn lock_to_mint() -> Result<(), Error> {
    TEMP_TOKENS.lock_for_writing().map(drop)
}

/// What mint locks with `replace`, so that calls for the same resource wait for each other.
#[derive(Clone, Copy)]
enum Name {
    Scope = 0x7401,
    ResourceId = 0x7402,
}

/// Deletes the tokens of `scope` that are bound to `resource_id`. Others who do so wait until this transaction ends, so that
/// the token which it mints next is the only one.
pub fn replace(scope: &[u8], resource_id: &[u8]) -> Result<(), Error> {
    pg::lock_name(Name::Scope as u16, &[scope], true);
    pg::lock_name(Name::ResourceId as u16, &[scope, resource_id], false);
    delete_by_resource_id(scope, resource_id)?;
    Ok(())
}

/// As [`replace`], for every resource id of a text[]. Others who replace any token of the scope wait.
pub fn replace_many(scope: &[u8], resource_ids: Datum) -> Result<(), Error> {
    static DELETE: Statement = Statement::writing(
        c"DELETE FROM temptoken.temp_tokens WHERE scope = $1 AND resource_id = ANY ($2)",
        &[Text::OID, TextList::OID],
    );
    pg::lock_name(Name::Scope as u16, &[scope], false);
    DELETE.run_durably(TEMP_TOKENS.oid()?, &[Some(pg::varlena(scope)), Some(resource_ids)])?;
    Ok(())
}

/// Spends one use of a limited token, if it is still what was `seen` of it. Returns the token as it is then. `None` if it has
/// no use left, is gone, or was changed. Waits for another transaction that spends or changes it. Once this transaction has
/// committed, no crash returns the use.
pub fn spend<'call>(call: &Call<'call>, seen: &TokenRow<'call>) -> Result<Option<TokenRow<'call>>, Error> {
    // Not by `=`: until the table is analyzed, the planner would take the index of scope and resource id, and read all tokens of
    // the resource.
    static SPEND: Statement = Statement::writing(
        c"UPDATE temptoken.temp_tokens SET uses_left = uses_left - 1
          WHERE id = $1 AND uses_left > 0
              AND token_hash = $2 AND expires_at = $5
              AND scope IS NOT DISTINCT FROM $3 AND resource_id IS NOT DISTINCT FROM $4
          RETURNING id, token_hash, scope, resource_id, created_at, expires_at, uses_left, metadata",
        &[Uuid::OID, Bytea::OID, Text::OID, Text::OID, Timestamptz::OID],
    );
    pg::require_writable(c"spending validation");
    let relation = TEMP_TOKENS.lock_for_writing()?;
    if TEMP_TOKENS.has_rows.load(Ordering::Relaxed) {
        pg::lock_row_to_update(relation, &Key::uuid(seen.id.as_bytes()))?;
    }
    let parameters = [
        Some(seen.id_value),
        Some(seen.token_hash.value),
        Some(seen.scope.value),
        Some(seen.resource_id.value),
        Some(pg::timestamptz(seen.expires_at)),
    ];
    let tuple = SPEND.run_for_row(call, relation, &parameters)?;
    if tuple.is_some() {
        pg::commit_durably();
    }
    Ok(tuple.and_then(|tuple| row(seen.id, &tuple)))
}

/// What introspection answers of an active token (RFC 7662, section 2.2). Its times (RFC 7519, section 2, NumericDate) are cut
/// to seconds, so that neither lies in the future of what is meant.
pub fn describe<'call>(call: &Call<'call>, row: &TokenRow<'call>) -> Result<Option<Datum>, Error> {
    static SELECT: Statement = Statement::reading(
        c"SELECT jsonb_build_object('active', true, 'scope', $1, 'sub', $2, 'jti', $3, 'iat', $4, 'exp', $5)",
        &[Text::OID, Text::OID, Uuid::OID, Int8::OID, Int8::OID],
    );
    let [issued, expires] =
        [row.created_at, row.expires_at].map(|micros| Some(Datum::from(micros.div_euclid(1_000_000))));
    let parameters = [Some(row.scope.value), Some(row.resource_id.value), Some(row.id_value), issued, expires];
    Ok(SELECT.run_for_row(call, TEMP_TOKENS.oid()?, &parameters)?.and_then(|response| response.datum(1)))
}

/// Deletes the token `id`. Returns whether it existed.
pub fn delete(id: TokenId) -> Result<bool, Error> {
    static DELETE: Statement = Statement::writing(c"DELETE FROM temptoken.temp_tokens WHERE id = $1", &[Uuid::OID]);
    Ok(DELETE.run_durably(TEMP_TOKENS.oid()?, &[Some(pg::uuid(id.as_bytes()))])? > 0)
}

/// Deletes every token of a scope that is bound to a resource id. Returns how many.
pub fn delete_by_resource_id(scope: &[u8], resource_id: &[u8]) -> Result<u64, Error> {
    static DELETE: Statement = Statement::writing(
        c"DELETE FROM temptoken.temp_tokens
          WHERE scope = $1 AND resource_id = $2",
        &[Text::OID, Text::OID],
    );
    let parameters = [Some(pg::varlena(scope)), Some(pg::varlena(resource_id))];
    Ok(DELETE.run_durably(TEMP_TOKENS.oid()?, &parameters)?)
}

/// Deletes every token of a scope. Returns how many.
pub fn delete_by_scope(scope: &[u8]) -> Result<u64, Error> {
    static DELETE: Statement = Statement::writing(c"DELETE FROM temptoken.temp_tokens WHERE scope = $1", &[Text::OID]);
    Ok(DELETE.run_durably(TEMP_TOKENS.oid()?, &[Some(pg::varlena(scope))])?)
}

/// Locks the table until the transaction ends, for a call that reads the scopes first. Whoever locks both tables locks this one
/// first.
pub fn lock_to_read() -> Result<(), Error> {
    TEMP_TOKENS.lock_for_reading().map(drop)
}

/// Counts live and expired tokens by scope. Calls `visit` with a row for each scope in `names`, a text[], for each other
/// scope that a token has, and for NULL: scope, live, expired, next expiry.
pub fn count_by_scope(names: Option<Datum>, visit: impl FnMut(&Tuple<'_>)) -> Result<(), Error> {
    static SELECT: Statement = Statement::reading(
        c"WITH stored AS MATERIALIZED (
              SELECT t.scope,
                     count(*) FILTER (WHERE t.expires_at > now.now) AS live,
                     count(*) FILTER (WHERE t.expires_at <= now.now) AS expired,
                     min(t.expires_at) FILTER (WHERE t.expires_at > now.now) AS next_expiry
              FROM temptoken.temp_tokens AS t, (SELECT clock_timestamp() AS now OFFSET 0) AS now
              GROUP BY t.scope
          )
          SELECT names.scope, coalesce(stored.live, 0), coalesce(stored.expired, 0), stored.next_expiry
          FROM (SELECT registered AS scope FROM unnest($1) AS registered
                UNION SELECT stored.scope FROM stored
                UNION ALL SELECT NULL) AS names
          LEFT JOIN stored ON stored.scope = names.scope
          ORDER BY names.scope COLLATE \"C\"",
        &[TextList::OID],
    );
    SELECT.run_for_rows(TEMP_TOKENS.oid()?, &[names], visit)?;
    Ok(())
}
