//! The table `temp_tokens`: read by primary key, written by statements, many rows at once as COPY does.

use pgrx::pg_sys::{self, Datum, Oid};

use super::TEMP_TOKENS;
use crate::errors::Error;
use crate::pg::copy::{self, Row};
use crate::pg::{self, Bytes, Call, Change, ElementType, Key, Statement, TableGone, Tuple, UuidRange};
use crate::token::{Digest, TokenId};

/// The types of the columns, in order (sql/tables.sql).
pub(super) const COLUMNS: &[Oid] = &[
    pg_sys::UUIDOID,
    pg_sys::BYTEAOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INT4OID,
    pg_sys::JSONBOID,
];

const USES_LEFT: usize = 7;

/// Whether no CHECK constraint, which only an administrator can have added, is about uses_left.
pub(super) fn leaves_uses_unchecked(relation: Oid) -> Result<bool, TableGone> {
    Ok(!pg::is_checked(relation, USES_LEFT)?)
}

/// A stored token, read at one moment. Times are Unix microseconds.
#[derive(Clone, Copy)]
pub struct TokenRow<'call> {
    pub id: TokenId,
    /// The id as the uuid that it is stored as.
    pub id_value: Datum,
    pub token_hash: &'call [u8],
    pub scope: Bytes<'call>,
    pub resource_id: Bytes<'call>,
    pub created_at: i64,
    pub expires_at: i64,
    pub uses_left: Option<i32>,
    pub metadata: Option<Datum>,
}

/// The token `id` as it is committed now, or changed by this transaction.
pub fn find<'call>(call: &Call<'call>, id: TokenId) -> Result<Option<TokenRow<'call>>, Error> {
    let key = Key::uuid(id.as_bytes());
    let tuple = TEMP_TOKENS.locked(|oid, is_current| pg::find(call, oid, is_current, &key))?;
    Ok(tuple.and_then(|tuple| row(id, &tuple)))
}

/// The columns but the last two are NOT NULL; a row where that was undone and made use of is no token.
fn row<'call>(id: TokenId, tuple: &Tuple<'call>) -> Option<TokenRow<'call>> {
    Some(TokenRow {
        id,
        id_value: tuple.datum(1)?,
        token_hash: tuple.bytes(2)?,
        scope: tuple.value(3)?,
        resource_id: tuple.value(4)?,
        created_at: tuple.timestamptz(5)?,
        expires_at: tuple.timestamptz(6)?,
        uses_left: tuple.int4(USES_LEFT),
        metadata: tuple.jsonb(8),
    })
}

/// What all tokens of one mint share. `created_at` is in Unix microseconds, `expires_at_ms` in Unix milliseconds.
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

    /// The same for COPY, without metadata.
    fn write(&self, row: &mut Row, token: &New<'_>) {
        row.uuid(token.id.as_bytes());
        row.bytes(token.digest.as_bytes());
        row.bytes(self.scope);
        row.bytes(token.resource_id);
        row.timestamptz(self.created_at);
        row.timestamptz(self.expires_at());
        row.int4(self.uses_left);
        row.null();
    }

    /// In Unix microseconds.
    fn expires_at(&self) -> i64 {
        self.expires_at_ms as i64 * 1000
    }
}

/// Stores one token.
pub fn insert(mint: &Mint<'_>, id: TokenId, digest: Digest, resource_id: &[u8]) -> Result<(), Error> {
    static INSERT: Statement = Statement::new(
        c"INSERT INTO temptoken.temp_tokens
              (id, token_hash, scope, resource_id, created_at, expires_at, uses_left, metadata)
          VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        COLUMNS,
    );
    let columns = mint.columns(pg::uuid(id.as_bytes()), pg::varlena(digest.as_bytes()), pg::varlena(resource_id));
    INSERT.run(TEMP_TOKENS.oid()?, &columns)?;
    Ok(())
}

/// A token to be stored with others.
#[derive(Clone, Copy)]
pub struct New<'a> {
    pub id: TokenId,
    pub digest: Digest,
    pub resource_id: &'a [u8],
}

/// Tokens to be stored together, best in the order of their ids.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub tokens: &'a [New<'a>],
    /// The resource ids of all of them, in order, as a text[].
    pub resource_ids: Datum,
}

/// Stores many tokens.
pub fn insert_many(call: &Call<'_>, mint: &Mint<'_>, batch: &Batch<'_>) -> Result<(), Error> {
    // From here on no rule can be added.
    let relation = TEMP_TOKENS.lock_for_writing()?;
    if suits_copy(relation, mint, batch)? {
        let mut tokens = batch.tokens.iter();
        let mut next = |row: &mut Row| tokens.next().map(|token| mint.write(row, token)).is_some();
        copy::insert(relation, COLUMNS.len(), &mut next)?;
        Ok(())
    } else {
        insert_by_statement(call, relation, mint, batch)
    }
}

/// Whether COPY stores these as a statement would, and not slower.
fn suits_copy(relation: Oid, mint: &Mint<'_>, batch: &Batch<'_>) -> Result<bool, Error> {
    // It would read the metadata anew for each row.
    if mint.metadata.is_some() {
        return Ok(false);
    }
    let mut longest = Row::new();
    if let Some(token) = batch.tokens.iter().max_by_key(|token| token.resource_id.len()) {
        mint.write(&mut longest, token);
    }
    Ok(longest.fits() && copy::suits(relation, COLUMNS.len())?)
}

/// Stores many tokens where COPY would not do.
fn insert_by_statement(call: &Call<'_>, relation: Oid, mint: &Mint<'_>, batch: &Batch<'_>) -> Result<(), Error> {
    static INSERT: Statement = Statement::new(
        c"INSERT INTO temptoken.temp_tokens
              (id, token_hash, scope, resource_id, created_at, expires_at, uses_left, metadata)
          SELECT t.id, t.token_hash, $3, t.resource_id, $5, $6, $7, $8
          FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($4))
              AS t (id, token_hash, resource_id)",
        &[
            pg_sys::UUIDARRAYOID,
            pg_sys::BYTEAARRAYOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTARRAYOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::INT4OID,
            pg_sys::JSONBOID,
        ],
    );
    let ids = batch.tokens.iter().map(|token| pg::uuid(token.id.as_bytes()));
    let token_hashes = batch.tokens.iter().map(|token| pg::varlena(token.digest.as_bytes()));
    let ids = pg::array(call, ids, ElementType::Uuid);
    let token_hashes = pg::array(call, token_hashes, ElementType::Bytea);
    INSERT.run(relation, &mint.columns(ids, token_hashes, batch.resource_ids))?;
    Ok(())
}

/// Takes one use off a limited token; false when there is none to take, or no such token any more. Waits for another
/// that is spending it, and commits only together with this transaction, through any crash after.
pub fn spend(id: TokenId) -> Result<bool, Error> {
    static SPEND: Statement = Statement::new(
        c"UPDATE temptoken.temp_tokens SET uses_left = uses_left OPERATOR(pg_catalog.-) 1
          WHERE id OPERATOR(pg_catalog.=) $1 AND uses_left OPERATOR(pg_catalog.>) 0",
        &[pg_sys::UUIDOID],
    );
    pg::require_writable(c"spending validation");
    let key = Key::uuid(id.as_bytes());
    let take_one = |tuple: &Tuple<'_>| tuple.int4(USES_LEFT).filter(|left| *left > 0).map(|left| Datum::from(left - 1));
    let leaves_uses_unchecked = || TEMP_TOKENS.answer();
    let change = Change { column: USES_LEFT, is_unchecked: &leaves_uses_unchecked, value: &take_one };
    let plainly = TEMP_TOKENS.locked(|oid, is_current| pg::update(oid, is_current, &key, &change))?;
    match plainly {
        Some(changed) => Ok(changed),
        None => Ok(SPEND.run_durably(TEMP_TOKENS.oid()?, &[Some(pg::uuid(id.as_bytes()))])?.rows > 0),
    }
}

/// Removes the token `id`; whether it was there.
pub fn delete(id: TokenId) -> Result<bool, Error> {
    static DELETE: Statement =
        Statement::new(c"DELETE FROM temptoken.temp_tokens WHERE id OPERATOR(pg_catalog.=) $1", &[pg_sys::UUIDOID]);
    Ok(DELETE.run_durably(TEMP_TOKENS.oid()?, &[Some(pg::uuid(id.as_bytes()))])?.rows > 0)
}

/// Removes every token of a scope that is bound to a resource id; how many there were.
pub fn delete_by_resource_id(scope: &[u8], resource_id: &[u8]) -> Result<u64, Error> {
    static DELETE: Statement = Statement::new(
        c"DELETE FROM temptoken.temp_tokens
          WHERE scope OPERATOR(pg_catalog.=) $1 AND resource_id OPERATOR(pg_catalog.=) $2",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID],
    );
    let parameters = [Some(pg::varlena(scope)), Some(pg::varlena(resource_id))];
    Ok(DELETE.run_durably(TEMP_TOKENS.oid()?, &parameters)?.rows)
}

/// Removes every token of a scope; how many there were.
pub fn delete_by_scope(scope: &[u8]) -> Result<u64, Error> {
    static DELETE: Statement =
        Statement::new(c"DELETE FROM temptoken.temp_tokens WHERE scope OPERATOR(pg_catalog.=) $1", &[pg_sys::TEXTOID]);
    Ok(DELETE.run_durably(TEMP_TOKENS.oid()?, &[Some(pg::varlena(scope))])?.rows)
}

/// Where a walk over expired tokens stands.
#[derive(Clone, Copy)]
pub struct Sweep {
    before: i64,
    after: TokenId,
}

impl Sweep {
    /// A walk over the tokens with `expires_at <= before` (Unix microseconds), from the earliest.
    pub fn new(before: i64) -> Self {
        Self { before, after: TokenId::FIRST }
    }

    /// Removes up to `limit` of the next tokens in id order, and skips those that others hold locked; how many went. The
    /// walk is at its end when that is fewer than `limit`.
    pub fn step(&mut self, limit: u64) -> Result<u64, Error> {
        // From here on no trigger can be added, and no column changed.
        let relation = TEMP_TOKENS.lock_for_writing()?;
        if pg::deletes_plainly(relation)? {
            self.delete_rows(relation, limit)
        } else {
            self.delete_by_statement(relation, limit)
        }
    }

    /// How many tokens the walk has before it.
    pub fn count(&self) -> Result<u64, Error> {
        let mut count = 0;
        pg::walk(TEMP_TOKENS.oid()?, &self.range(), |row| {
            count += u64::from(self.has_expired(row.tuple()));
            true
        })?;
        Ok(count)
    }

    /// Ids bound the walk; `has_expired` decides.
    fn range(&self) -> UuidRange {
        let last_ms = u64::try_from(self.before.div_euclid(1000)).unwrap_or(0);
        UuidRange { after: *self.after.as_bytes(), to: *TokenId::last_at(last_ms).as_bytes() }
    }

    fn has_expired(&self, tuple: &Tuple<'_>) -> bool {
        tuple.timestamptz(6).is_some_and(|expires_at| expires_at <= self.before)
    }

    /// Walks the primary key and deletes on the way, which is several times as fast as a statement.
    fn delete_rows(&mut self, relation: Oid, limit: u64) -> Result<u64, Error> {
        let (mut removed, mut last) = (0, self.after);
        pg::walk(relation, &self.range(), |row| {
            let tuple = row.tuple();
            if self.has_expired(tuple) && row.delete() {
                removed += 1;
                last = tuple.uuid(1).map_or(last, TokenId::from_bytes);
            }
            removed < limit
        })?;
        pg::end_command();
        self.after = last;
        Ok(removed)
    }

    /// For a table whose deletions concern more than the table.
    fn delete_by_statement(&mut self, relation: Oid, limit: u64) -> Result<u64, Error> {
        static DELETE: Statement = Statement::new(
            c"DELETE FROM temptoken.temp_tokens
              WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY(
                  SELECT t.id FROM temptoken.temp_tokens AS t
                  WHERE t.id OPERATOR(pg_catalog.>) $1 AND t.id OPERATOR(pg_catalog.<=) $2
                      AND t.expires_at OPERATOR(pg_catalog.<=) $3
                  ORDER BY t.id
                  LIMIT $4
                  FOR UPDATE SKIP LOCKED))
              RETURNING id",
            &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
        );
        let range = self.range();
        let parameters = [
            Some(pg::uuid(&range.after)),
            Some(pg::uuid(&range.to)),
            Some(pg::timestamptz(self.before)),
            Some(Datum::from(limit as i64)),
        ];
        let outcome = DELETE.run(relation, &parameters)?;
        if let Some(greatest) = outcome.greatest {
            self.after = TokenId::from_bytes(greatest);
        }
        Ok(outcome.rows)
    }
}
