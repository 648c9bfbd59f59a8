//! Removing expired tokens: a walk over the primary key of `temp_tokens`, in steps.

use super::TEMP_TOKENS;
use crate::errors::Error;
use crate::pg::{self, Datum, Deletion, Int8, Oid, Rows, SqlType as _, Statement, Timestamptz, Tuple, Uuid, UuidRange};
use crate::token::{TokenId, last_id_at};

/// Deletes every token with `expires_at <= before` (Unix microseconds). Returns how many.
pub fn delete_expired(before: i64) -> Result<u64, Error> {
    const BATCH: u64 = 10_000;
    // With a time to come, tokens that work are among them.
    pg::commit_durably();
    let (mut sweep, mut removed) = (Sweep::new(before), 0);
    loop {
        let step = sweep.step(BATCH)?;
        removed += step.removed;
        if step.is_last {
            return Ok(removed);
        }
    }
}

/// How many entries of the primary key one step of a [`Sweep`] passes, besides those of the rows that it removes. While some session
/// keeps an old snapshot, no vacuum removes what earlier sweeps have deleted: there may be millions where each sweep begins. A
/// step of few rows is one that is not to take long, so it also passes few.
fn passed_max(limit: u64) -> u64 {
    limit.saturating_mul(20).min(20_000)
}

/// A walk over expired tokens, in id order.
#[derive(Clone, Copy)]
pub struct Sweep {
    before: i64,
    /// Where the walk is: behind this token.
    pub after: TokenId,
}

/// What one step of a [`Sweep`] has done.
pub struct Step {
    /// How many tokens are gone.
    pub removed: u64,
    /// Whether the walk is at its end.
    pub is_last: bool,
}

impl Sweep {
    /// A walk over the tokens with `expires_at <= before` (Unix microseconds), from the earliest.
    pub fn new(before: i64) -> Self {
        Self { before, after: TokenId::nil() }
    }

    /// Removes the next tokens, at most `limit`. Tokens that others have locked are skipped.
    pub fn step(&mut self, limit: u64) -> Result<Step, Error> {
        // From here on no trigger can be added, and no column changed.
        let relation = TEMP_TOKENS.lock_for_writing()?;
        if pg::rows_of(relation) == Rows::InShards {
            self.step_over_shards(relation, limit)
        } else if pg::deletes_plainly(relation)? {
            self.step_by_walk(relation, limit)
        } else {
            self.step_by_statement(relation, limit)
        }
    }

    /// Passes over the next tokens, `count` of them. Where there are fewer, over half as many or less, so that not all that is
    /// left is passed over.
    pub fn pass_over(&mut self, count: u64) -> Result<(), Error> {
        let relation = TEMP_TOKENS.lock_for_writing()?;
        let mut count = count;
        while count > 0 {
            if let Some(id) = self.next(relation, count)? {
                self.after = id;
                break;
            }
            count /= 2;
        }
        Ok(())
    }

    /// Ids bound the walk; `has_expired` decides.
    fn range(&self) -> UuidRange {
        let last_ms = u64::try_from(self.before.div_euclid(1000)).unwrap_or(0);
        UuidRange { after: *self.after.as_bytes(), to: *last_id_at(last_ms).as_bytes() }
    }

    /// The bounds as parameters, and a number of rows.
    fn parameters(&self, rows: u64) -> [Option<Datum>; 4] {
        let range = self.range();
        let [after, to] = [range.after, range.to].map(|id| Some(pg::uuid(&id)));
        [after, to, Some(pg::timestamptz(self.before)), Some(Datum::from(rows as i64))]
    }

    fn has_expired(&self, tuple: &Tuple<'_>) -> bool {
        tuple.get::<Timestamptz>(6).is_some_and(|expires_at| expires_at <= self.before)
    }

    /// Several times as fast as a statement. A row that was changed since the step began is where the next one begins.
    fn step_by_walk(&mut self, relation: Oid, limit: u64) -> Result<Step, Error> {
        let (mut removed, mut last, mut is_changed) = (0, self.after, false);
        let come_to = pg::walk(relation, &self.range(), limit.saturating_add(passed_max(limit)), |row| {
            let tuple = row.tuple();
            match self.has_expired(tuple).then(|| row.delete()) {
                Some(Deletion::Changed) => {
                    is_changed = true;
                    return false;
                }
                Some(Deletion::Done) => removed += 1,
                Some(Deletion::Left) | None => {}
            }
            last = tuple.get::<Uuid>(1).map_or(last, TokenId::from_bytes);
            removed < limit
        })?;
        pg::end_command();
        self.after = come_to.map_or(last, TokenId::from_bytes);
        Ok(Step { removed, is_last: removed < limit && come_to.is_none() && !is_changed })
    }

    /// For a table whose deletions concern more than the table. A trigger or rule may keep tokens, or delete others.
    fn step_by_statement(&mut self, relation: Oid, limit: u64) -> Result<Step, Error> {
        static SELECT: Statement = Statement::writing(
            c"SELECT picked.ids, cardinality(picked.ids)::bigint, picked.ids[cardinality(picked.ids)]
              FROM (SELECT ARRAY(
                  SELECT t.id FROM temptoken.temp_tokens AS t
                  WHERE t.id > $1 AND t.id <= $2 AND t.expires_at <= $3
                  ORDER BY t.id
                  LIMIT $4
                  FOR UPDATE SKIP LOCKED) AS ids OFFSET 0) AS picked",
            &[Uuid::OID, Uuid::OID, Timestamptz::OID, Int8::OID],
        );
        static DELETE: Statement =
            Statement::writing(c"DELETE FROM temptoken.temp_tokens WHERE id = ANY ($1)", &[pg::UUID_ARRAY]);
        let reach = self.reach(relation, limit);
        let mut parameters = self.parameters(limit);
        if let Some(id) = &reach {
            parameters[1] = Some(pg::uuid(id.as_bytes()));
        }
        let (mut ids, mut count, mut last) = (None, 0, None);
        SELECT.run_for_rows(relation, &parameters, |row| {
            ids = row.datum(1).map(pg::keep_varlena);
            count = row.get::<Int8>(2).unwrap_or(0) as u64;
            last = row.get::<Uuid>(3).map(TokenId::from_bytes);
        })?;
        let removed = if count > 0 { DELETE.run(relation, &[ids])? } else { 0 };
        let is_full = count >= limit;
        self.after = if is_full { last } else { reach.or(last) }.unwrap_or(self.after);
        Ok(Step { removed, is_last: !is_full && reach.is_none() })
    }

    /// How far a statement of at most `limit` rows may go, if not to the end: it has no other bound where rows are dead.
    fn reach(&self, relation: Oid, limit: u64) -> Option<TokenId> {
        if pg::rows_of(relation) != Rows::Here {
            return None;
        }
        let (mut found, mut last) = (0, None);
        let walked = pg::walk(relation, &self.range(), limit.saturating_add(passed_max(limit)), |row| {
            let tuple = row.tuple();
            if self.has_expired(tuple) {
                (found, last) = (found + 1, tuple.get::<Uuid>(1));
            }
            found < limit
        });
        // With child tables there is no walk.
        let come_to = walked.ok()?;
        come_to.or(last.filter(|_| found >= limit)).map(TokenId::from_bytes)
    }

    /// In statements that Citus can run: it locks no row on all shards, and skips none that is locked.
    fn step_over_shards(&mut self, relation: Oid, limit: u64) -> Result<Step, Error> {
        static DELETE: Statement = Statement::writing(
            c"DELETE FROM temptoken.temp_tokens WHERE id > $1 AND id <= $2 AND expires_at <= $3",
            &[Uuid::OID, Uuid::OID, Timestamptz::OID],
        );
        let range = self.range();
        let last = self.next(relation, limit)?;
        let to = last.unwrap_or(TokenId::from_bytes(range.to));
        let parameters =
            [Some(pg::uuid(&range.after)), Some(pg::uuid(to.as_bytes())), Some(pg::timestamptz(self.before))];
        let removed = DELETE.run(relation, &parameters)?;
        self.after = to;
        Ok(Step { removed, is_last: last.is_none() })
    }

    /// The last of the next `count` tokens, if there are as many.
    fn next(&self, relation: Oid, count: u64) -> Result<Option<TokenId>, Error> {
        static SELECT: Statement = Statement::reading(
            c"SELECT id FROM temptoken.temp_tokens
              WHERE id > $1 AND id <= $2 AND expires_at <= $3 ORDER BY id LIMIT 1 OFFSET $4",
            &[Uuid::OID, Uuid::OID, Timestamptz::OID, Int8::OID],
        );
        let parameters = self.parameters(count - 1);
        let mut last = None;
        SELECT.run_for_rows(relation, &parameters, |row| last = row.get::<Uuid>(1).map(TokenId::from_bytes))?;
        Ok(last)
    }
}

/// How many tokens have expired by `now` (Unix microseconds).
pub fn count_expired(now: i64) -> Result<u64, Error> {
    static SELECT: Statement = Statement::reading(
        c"SELECT count(*) FROM temptoken.temp_tokens WHERE id <= $1 AND expires_at <= $2",
        &[Uuid::OID, Timestamptz::OID],
    );
    let parameters = [Some(pg::uuid(&Sweep::new(now).range().to)), Some(pg::timestamptz(now))];
    let mut count = 0;
    SELECT.run_for_rows(TEMP_TOKENS.oid()?, &parameters, |row| count = row.get::<Int8>(1).unwrap_or(0))?;
    Ok(count as u64)
}
