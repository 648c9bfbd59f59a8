//! The table `scopes`: read through a cache that invalidation empties, written by statements.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::CStr;
use std::hash::{Hash, Hasher};
use std::sync::atomic::Ordering;

use rustc_hash::FxBuildHasher;

use super::{GENERATION, SCOPES};
use crate::errors::Error;
use crate::pg::{self, Call, Datum, Int4, Interval, Key, Oid, SqlType as _, Statement, Text, TextList, Tuple};
use crate::scope::{Problem, Scope, ScopeRow};
use crate::values::OutOfMemory;

/// The names of the columns, in order (sql/tables.sql).
pub(super) const NAMES: &[&CStr] =
    &[c"name", c"allowed_routes", c"resource_id_in_path", c"max_ttl", c"max_uses", c"spending_methods"];
/// Their types.
pub(super) const COLUMNS: &[Oid] = &[Text::OID, TextList::OID, Text::OID, Interval::OID, Int4::OID, TextList::OID];

/// Scopes that were read. They are valid while GENERATION equals `generation`.
struct Cache {
    generation: u64,
    scopes: Option<HashSet<ByName, FxBuildHasher>>,
}

/// A scope, found by its name.
struct ByName(Scope);

impl Borrow<[u8]> for ByName {
    fn borrow(&self) -> &[u8] {
        self.0.name()
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for ByName {}

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(Cache { generation: 0, scopes: None }) };
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// How often this session has looked for a scope in the table. While it stays, [`with`] answers from what was read before.
pub fn reads() -> u64 {
    READS.get()
}

/// What `ask` answers about the scope `name`, as it is committed now or changed by this transaction. `None` if there is no
/// such scope. `ask` is pure: it runs while the cache is borrowed.
pub fn with<R>(call: &Call<'_>, name: &[u8], mut ask: impl FnMut(&Scope) -> R) -> Result<Option<R>, Error> {
    pg::accept_invalidations();
    if let Some(answer) = ask_cache(name, &mut ask) {
        return Ok(Some(answer));
    }
    let (generation, row) = find(call, name)?;
    let Some(row) = row else { return Ok(None) };
    // A row of this transaction's own is not cached. A rollback that comes before the trigger on scopes has queued its
    // invalidation would leave it in the cache. Asked before there is a scope, which an error here would leak.
    let is_to_be_kept = !row.is_of_this_transaction() && announces_changes()?;
    let scope = match Scope::new(&scope_row(&row)) {
        Ok(scope) => scope,
        Err(Problem::OutOfMemory) => return Err(OutOfMemory.into()),
        // The constraint was dropped. A row that breaks a rule authorizes nothing.
        Err(_) => return Ok(None),
    };
    let answer = ask(&scope);
    if is_to_be_kept {
        keep(generation, scope);
    }
    Ok(Some(answer))
}

/// The row of scope `name`, and the generation that it may be cached under.
fn find<'call>(call: &Call<'call>, name: &[u8]) -> Result<(u64, Option<Tuple<'call>>), Error> {
    READS.set(READS.get().wrapping_add(1));
    SCOPES.locked(|oid, is_current| {
        // Read before the lookup: a change that the lookup misses increments it.
        let generation = GENERATION.load(Ordering::Relaxed);
        Ok((generation, pg::find(call, oid, is_current, &Key::text(name))?))
    })
}

fn ask_cache<R>(name: &[u8], ask: &mut impl FnMut(&Scope) -> R) -> Option<R> {
    CACHE.with_borrow_mut(|cache| {
        let generation = GENERATION.load(Ordering::Relaxed);
        if cache.generation != generation {
            *cache = Cache { generation, scopes: None };
        }
        cache.scopes.as_ref()?.get(name).map(|ByName(scope)| ask(scope))
    })
}

fn keep(generation: u64, scope: Scope) {
    CACHE.with_borrow_mut(|cache| {
        if cache.generation == generation && generation == GENERATION.load(Ordering::Relaxed) {
            let scopes = cache.scopes.get_or_insert_default();
            // Without memory for it, it is read again next time.
            if scopes.try_reserve(1).is_ok() {
                scopes.insert(ByName(scope));
            }
        }
    });
}

/// Whether every change of a scope invalidates the caches. The trigger that does it may be disabled, or not be enabled
/// ALWAYS any more: restoring with --disable-triggers leaves it so, and it then misses replicated rows.
fn announces_changes() -> Result<bool, Error> {
    Ok(pg::has_trigger_enabled_always(SCOPES.oid()?, c"scopes_changed")?)
}

fn scope_row<'a>(tuple: &Tuple<'a>) -> ScopeRow<'a> {
    ScopeRow {
        name: tuple.get::<Text>(1),
        allowed_routes: tuple.get::<TextList>(2),
        resource_id_in_path: tuple.get::<Text>(3),
        max_ttl: tuple.get::<Interval>(4),
        max_uses: tuple.get::<Int4>(5),
        spending_methods: tuple.get::<TextList>(6),
    }
}

/// The row of scope `name`, as a value of the type `temptoken.scopes`.
pub fn lookup(call: &Call<'_>, name: &[u8]) -> Result<Option<Datum>, Error> {
    static SELECT: Statement = Statement::reading(
        c"SELECT (s.*)::temptoken.scopes FROM temptoken.scopes AS s WHERE s.name = $1",
        &[Text::OID],
    );
    let row = SELECT.run_for_row(call, SCOPES.oid()?, &[Some(pg::varlena(name))])?;
    Ok(row.and_then(|row| row.datum(1)))
}

/// Inserts a scope from the values of its columns, in order. If the name is taken: replaces that scope if `replace` is
/// true, else returns false.
pub fn register(columns: &[Option<Datum>; COLUMNS.len()], replace: bool) -> Result<bool, Error> {
    static INSERT: Statement = Statement::writing(
        c"INSERT INTO temptoken.scopes (name, allowed_routes, resource_id_in_path, max_ttl, max_uses, spending_methods)
          VALUES ($1, $2, $3, $4, $5, $6)
          ON CONFLICT (name) DO NOTHING",
        COLUMNS,
    );
    static REPLACE: Statement = Statement::writing(
        c"INSERT INTO temptoken.scopes (name, allowed_routes, resource_id_in_path, max_ttl, max_uses, spending_methods)
          VALUES ($1, $2, $3, $4, $5, $6)
          ON CONFLICT (name) DO UPDATE SET
              allowed_routes = excluded.allowed_routes,
              resource_id_in_path = excluded.resource_id_in_path,
              max_ttl = excluded.max_ttl,
              max_uses = excluded.max_uses,
              spending_methods = excluded.spending_methods",
        COLUMNS,
    );
    let statement = if replace { &REPLACE } else { &INSERT };
    Ok(statement.run_durably(SCOPES.oid()?, columns)? > 0)
}

/// The names of all scopes, as a text[].
pub fn names(call: &Call<'_>) -> Result<Option<Datum>, Error> {
    static SELECT: Statement =
        Statement::reading(c"SELECT pg_catalog.array_agg(name::text) FROM temptoken.scopes", &[]);
    let row = SELECT.run_for_row(call, SCOPES.oid()?, &[])?;
    Ok(row.and_then(|row| row.datum(1)))
}

/// Deletes the scope `name`. Returns whether it existed.
pub fn unregister(name: &[u8]) -> Result<bool, Error> {
    static DELETE: Statement = Statement::writing(c"DELETE FROM temptoken.scopes WHERE name = $1", &[Text::OID]);
    Ok(DELETE.run_durably(SCOPES.oid()?, &[Some(pg::varlena(name))])? > 0)
}
