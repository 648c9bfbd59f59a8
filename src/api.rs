//! The functions that SQL can call: read arguments, call, shape the answer.
//!
//! Lives here: one short function for each C function that sql/functions.sql declares; what each takes and answers is
//! said there, in its COMMENT. May not come in here: decisions.
//!
//! Arguments are texts in the bytes of the database's encoding, whatever that is. No function is STRICT, so that every
//! one sees NULL and decides.

use std::fmt::Write as _;

use pgrx::pg_sys::{self, Datum};

use crate::errors::{self, Error, Refusal, answer};
use crate::identity::{self, Identity};
use crate::pg::{self, Call, ColumnText, RowType};
use crate::scope::{self, Scope, ScopeRow};
use crate::store::{self, scopes, tokens};
use crate::sweep;
use crate::token::{Token, TokenId};
use crate::validate::{Request, Uses, Verdict};
use crate::{counters, introspection, mint, postgrest, settings, validate};

type Answer = Result<Option<Datum>, Error>;

/// Exports `$body` to PostgreSQL (fmgr.h, version-1 calling convention) under the name that sql/functions.sql gives.
macro_rules! sql_function {
    ($symbol:ident, $info:ident, $body:path) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
            // SAFETY: PostgreSQL passes its fcinfo, and this frame owns nothing.
            unsafe { answer(fcinfo, $body) }
        }

        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            &pg_sys::Pg_finfo_record { api_version: 1 }
        }
    };
}

sql_function!(temptoken_register_scope, pg_finfo_temptoken_register_scope, register_scope);
sql_function!(temptoken_lookup_scope, pg_finfo_temptoken_lookup_scope, lookup_scope);
sql_function!(temptoken_unregister_scope, pg_finfo_temptoken_unregister_scope, unregister_scope);
sql_function!(temptoken_scope_is_valid, pg_finfo_temptoken_scope_is_valid, scope_is_valid);
sql_function!(temptoken_scopes_changed, pg_finfo_temptoken_scopes_changed, scopes_changed);
sql_function!(temptoken_mint, pg_finfo_temptoken_mint, mint_one);
sql_function!(temptoken_mint_many, pg_finfo_temptoken_mint_many, mint_many);
sql_function!(temptoken_validate, pg_finfo_temptoken_validate, validate_or_raise);
sql_function!(temptoken_try_validate, pg_finfo_temptoken_try_validate, try_validate);
sql_function!(temptoken_peek, pg_finfo_temptoken_peek, peek);
sql_function!(temptoken_delete, pg_finfo_temptoken_delete, delete);
sql_function!(temptoken_delete_by_id, pg_finfo_temptoken_delete_by_id, delete_by_id);
sql_function!(temptoken_delete_by_resource_id, pg_finfo_temptoken_delete_by_resource_id, delete_by_resource_id);
sql_function!(temptoken_delete_by_scope, pg_finfo_temptoken_delete_by_scope, delete_by_scope);
sql_function!(temptoken_delete_expired, pg_finfo_temptoken_delete_expired, delete_expired);
sql_function!(
    temptoken_delete_by_resource_id_trigger,
    pg_finfo_temptoken_delete_by_resource_id_trigger,
    delete_by_resource_id_trigger
);
sql_function!(temptoken_introspect, pg_finfo_temptoken_introspect, introspect);
sql_function!(temptoken_find_tokens, pg_finfo_temptoken_find_tokens, find_tokens);
sql_function!(temptoken_stats, pg_finfo_temptoken_stats, stats);
sql_function!(temptoken_sweep_state, pg_finfo_temptoken_sweep_state, sweep_state);
sql_function!(temptoken_rows_waiting, pg_finfo_temptoken_rows_waiting, rows_waiting);
sql_function!(temptoken_sweep_worker_start, pg_finfo_temptoken_sweep_worker_start, sweep_worker_start);
sql_function!(temptoken_sweep_worker_stop, pg_finfo_temptoken_sweep_worker_stop, sweep_worker_stop);
sql_function!(temptoken_authenticate, pg_finfo_temptoken_authenticate, authenticate);
sql_function!(temptoken_current_id, pg_finfo_temptoken_current_id, current_id);
sql_function!(temptoken_current_scope, pg_finfo_temptoken_current_scope, current_scope);
sql_function!(temptoken_current_resource_id, pg_finfo_temptoken_current_resource_id, current_resource_id);
sql_function!(temptoken_current_metadata, pg_finfo_temptoken_current_metadata, current_metadata);
sql_function!(temptoken_pre_request, pg_finfo_temptoken_pre_request, pre_request);

// ---------------------------------------------------------------------------------------------------------------------
// Scopes
// ---------------------------------------------------------------------------------------------------------------------

fn register_scope(call: &Call<'_>) -> Answer {
    pg::require_writable(c"temptoken_register_scope()");
    const PLACES: [usize; 6] = [0, 1, 3, 2, 4, 5];
    check_scope(call, PLACES)?;
    let name = call.text(0).unwrap_or_default();
    if !scopes::register(&PLACES.map(|argument| call.datum(argument)), call.boolean(6).unwrap_or(false))? {
        return Err(Error::scope_already_registered(name));
    }
    errors::warn_of_routes(name, &scope::suspicions(&scope_row(call, PLACES)));
    Ok(Some(Datum::from(0)))
}

fn lookup_scope(call: &Call<'_>) -> Answer {
    call.text(0).map_or(Ok(None), |name| scopes::lookup(call, name))
}

fn unregister_scope(call: &Call<'_>) -> Answer {
    pg::require_writable(c"temptoken_unregister_scope()");
    boolean(call.text(0).map_or(Ok(false), scopes::unregister))
}

/// The constraint of the table scopes: raises rather than answers false, so that every way in says what is wrong.
fn scope_is_valid(call: &Call<'_>) -> Answer {
    check_scope(call, [0, 1, 2, 3, 4, 5])?;
    boolean(Ok(true))
}

/// The scope in the arguments at these places: name, allowed_routes, resource_id_in_path, max_ttl, max_uses,
/// spending_methods.
fn scope_row<'call>(
    call: &Call<'call>,
    [name, routes, placeholder, max_ttl, max_uses, methods]: [usize; 6],
) -> ScopeRow<'call> {
    ScopeRow {
        name: call.text(name),
        allowed_routes: call.text_array(routes),
        resource_id_in_path: call.text(placeholder),
        max_ttl: call.interval(max_ttl),
        max_uses: call.int4(max_uses),
        spending_methods: call.text_array(methods),
    }
}

fn check_scope(call: &Call<'_>, places: [usize; 6]) -> Result<(), Error> {
    let row = scope_row(call, places);
    Scope::new(&row).map(drop).map_err(|problem| Error::invalid_scope(row.name, &problem))
}

/// The trigger on scopes.
fn scopes_changed(call: &Call<'_>) -> Answer {
    if let Some(relation) = call.trigger_relation() {
        pg::invalidate_relation(relation);
    }
    // What an AFTER trigger returns is not looked at, but it must not be flagged NULL (commands/trigger.c).
    Ok(Some(Datum::from(0)))
}

// ---------------------------------------------------------------------------------------------------------------------
// Tokens
// ---------------------------------------------------------------------------------------------------------------------

fn mint_request<'call>(call: &Call<'call>) -> mint::Request<'call> {
    mint::Request {
        scope: call.text(0),
        ttl: call.interval(2),
        metadata: call.datum(3),
        max_uses: call.int4(4),
        replace: call.boolean(5).unwrap_or(false),
    }
}

fn mint_one(call: &Call<'_>) -> Answer {
    pg::require_writable(c"temptoken_mint()");
    mint::one(call, &mint_request(call), call.text(1)).map(Some)
}

fn mint_many(call: &Call<'_>) -> Answer {
    static ROW: RowType = RowType::new(&[(c"resource_id", pg_sys::TEXTOID), (c"token", pg_sys::TEXTOID)]);
    pg::require_writable(c"temptoken_mint_many()");
    let pairs = mint::many(call, &mint_request(call), 1)?;
    call.rows(&ROW, |put| {
        for (resource_id, token) in pairs.resource_ids.iter().zip(pairs.tokens) {
            put(&[Some(*resource_id), Some(*token)]);
        }
    });
    Ok(None)
}

fn validation_request<'call>(call: &Call<'call>) -> Request<'call> {
    Request { token: call.text(0), method: call.text(1), path: call.text(2) }
}

fn validate_or_raise(call: &Call<'_>) -> Answer {
    authorized(call, &validation_request(call)).map(|row| Some(token_row(&row)))
}

/// The token that authorizes `request`, or the refusal as an error.
fn authorized<'call>(call: &Call<'call>, request: &Request<'call>) -> Result<tokens::TokenRow<'call>, Error> {
    match validate::validate(call, request, Uses::Spend)? {
        Verdict::Ok(row) => Ok(row),
        Verdict::Refused { refusal, scope } => Err(Error::refusal(refusal, scope.unwrap_or_default())),
    }
}

/// What validate and authenticate answer.
fn token_row(row: &tokens::TokenRow<'_>) -> Datum {
    static ROW: RowType = RowType::new(&[
        (c"id", pg_sys::UUIDOID),
        (c"scope", pg_sys::TEXTOID),
        (c"resource_id", pg_sys::TEXTOID),
        (c"expires_at", pg_sys::TIMESTAMPTZOID),
        (c"metadata", pg_sys::JSONBOID),
        (c"uses_left", pg_sys::INT4OID),
    ]);
    ROW.form(&token_columns(row))
}

fn try_validate(call: &Call<'_>) -> Answer {
    validate_as_value(call, Uses::Spend)
}

fn peek(call: &Call<'_>) -> Answer {
    validate_as_value(call, Uses::Leave)
}

fn validate_as_value(call: &Call<'_>, uses: Uses) -> Answer {
    static ROW: RowType = RowType::new(&[
        (c"status", pg_sys::TEXTOID),
        (c"id", pg_sys::UUIDOID),
        (c"scope", pg_sys::TEXTOID),
        (c"resource_id", pg_sys::TEXTOID),
        (c"expires_at", pg_sys::TIMESTAMPTZOID),
        (c"metadata", pg_sys::JSONBOID),
        (c"uses_left", pg_sys::INT4OID),
    ]);
    let (status, columns) = match validate::validate(call, &validation_request(call), uses)? {
        Verdict::Ok(row) => ("ok", token_columns(&row)),
        Verdict::Refused { refusal, .. } => (Refusal::name(refusal), [None; 6]),
    };
    let [id, scope, resource_id, expires_at, metadata, uses_left] = columns;
    let status = Some(pg::varlena(status.as_bytes()));
    Ok(Some(ROW.form(&[status, id, scope, resource_id, expires_at, metadata, uses_left])))
}

fn token_columns(row: &tokens::TokenRow<'_>) -> [Option<Datum>; 6] {
    [
        Some(row.id_value),
        Some(row.scope.value),
        Some(row.resource_id.value),
        Some(pg::timestamptz(row.expires_at)),
        row.metadata,
        row.uses_left.map(Datum::from),
    ]
}

fn delete(call: &Call<'_>) -> Answer {
    pg::require_writable(c"temptoken_delete()");
    let Some(token) = call.text(0).and_then(Token::parse) else { return boolean(Ok(false)) };
    let known = validate::find(call, &token)?.is_some();
    boolean(if known { tokens::delete(token.id()) } else { Ok(false) })
}

fn delete_by_id(call: &Call<'_>) -> Answer {
    pg::require_writable(c"temptoken_delete_by_id()");
    boolean(call.uuid(0).map_or(Ok(false), |id| tokens::delete(TokenId::from_bytes(id))))
}

fn delete_by_resource_id(call: &Call<'_>) -> Answer {
    pg::require_writable(c"temptoken_delete_by_resource_id()");
    count(match (given(call, 0), given(call, 1)) {
        (Some(scope), Some(resource_id)) => tokens::delete_by_resource_id(scope, resource_id),
        _ => Ok(0),
    })
}

fn delete_by_scope(call: &Call<'_>) -> Answer {
    pg::require_writable(c"temptoken_delete_by_scope()");
    count(given(call, 0).map_or(Ok(0), tokens::delete_by_scope))
}

fn delete_expired(call: &Call<'_>) -> Answer {
    const BATCH: u64 = 10_000;
    pg::require_writable(c"temptoken_delete_expired()");
    let Some(before) = call.timestamptz(0) else { return count(Ok(0)) };
    let mut sweep = tokens::Sweep::new(before);
    let mut removed = 0;
    loop {
        let step = sweep.step(BATCH)?;
        removed += step;
        if step < BATCH {
            return count(Ok(removed));
        }
    }
}

fn delete_by_resource_id_trigger(call: &Call<'_>) -> Answer {
    let trigger = call.trigger_on_old_row().ok_or_else(Error::no_trigger)?;
    let (scope, column) = trigger.two_arguments().ok_or_else(Error::trigger_arguments)?;
    match trigger.old_value(column) {
        ColumnText::Unfit => return Err(Error::trigger_column(column.to_bytes())),
        ColumnText::Null => {}
        ColumnText::Value(resource_id) => _ = tokens::delete_by_resource_id(scope.to_bytes(), resource_id)?,
    }
    Ok(Some(Datum::from(0)))
}

fn introspect(call: &Call<'_>) -> Answer {
    let active = match call.text(0).and_then(Token::parse) {
        Some(token) => validate::find_active(call, &token)?,
        None => None,
    };
    Ok(Some(introspection::response(call, active.as_ref())))
}

fn find_tokens(call: &Call<'_>) -> Answer {
    static ROW: RowType =
        RowType::new(&[(c"id", pg_sys::UUIDOID), (c"known", pg_sys::BOOLOID), (c"active", pg_sys::BOOLOID)]);
    let mut seen = pg::Set::new(call);
    let mut failure = Ok(());
    call.rows(&ROW, |put| {
        failure = Token::candidates(call.text(0).unwrap_or_default()).try_for_each(|candidate| {
            pg::check_for_interrupts();
            let Some(token) = Token::parse(candidate) else { return Ok(()) };
            if seen.insert(&token.key()) {
                let known = validate::find(call, &token)?.is_some();
                let active = validate::find_active(call, &token)?.is_some();
                put(&[Some(pg::uuid(token.id().as_bytes())), Some(Datum::from(known)), Some(Datum::from(active))]);
            }
            Ok(())
        });
    });
    failure.map(|()| None)
}

/// Live and expired tokens of each scope, and how often validation has answered what.
fn stats(call: &Call<'_>) -> Answer {
    static ROW: RowType = RowType::new(&[
        (c"scope", pg_sys::TEXTOID),
        (c"live", pg_sys::INT8OID),
        (c"expired", pg_sys::INT8OID),
        (c"next_expiry", pg_sys::TIMESTAMPTZOID),
        (c"outcomes", pg_sys::JSONBOID),
    ]);
    let names = scopes::names(call)?;
    let mut counted = Ok(());
    call.rows(&ROW, |put| {
        counted = tokens::count_by_scope(names, |row| {
            put(&[row.datum(1), row.datum(2), row.datum(3), row.datum(4), outcomes(call, row.bytes(1))]);
        });
    });
    counted.map(|()| None)
}

/// How often validation has answered what of tokens of `scope`, as a jsonb. `None` where nothing is counted.
fn outcomes(call: &Call<'_>, scope: Option<&[u8]>) -> Option<Datum> {
    let counts = counters::of(scope)?;
    let mut json = pg::Text::new(call);
    for (at, (name, count)) in counts.iter().enumerate() {
        json.push(if at == 0 { b"{" } else { b"," });
        // Writing to a palloc'd text fails by an error of PostgreSQL's only.
        let _ = write!(json, "\"{name}\": {count}");
    }
    json.push(b"}");
    Some(pg::jsonb(&json))
}

// ---------------------------------------------------------------------------------------------------------------------
// Sweeping
// ---------------------------------------------------------------------------------------------------------------------

fn sweep_state(_call: &Call<'_>) -> Answer {
    static ROW: RowType = RowType::new(&[
        (c"worker", pg_sys::TEXTOID),
        (c"next_start", pg_sys::TIMESTAMPTZOID),
        (c"last_start", pg_sys::TIMESTAMPTZOID),
        (c"last_finish", pg_sys::TIMESTAMPTZOID),
        (c"rows_removed", pg_sys::INT8OID),
        (c"rows_removed_in_total", pg_sys::INT8OID),
        (c"last_error", pg_sys::TEXTOID),
        (c"last_error_at", pg_sys::TIMESTAMPTZOID),
        (c"preloaded", pg_sys::BOOLOID),
    ]);
    let state = sweep::state();
    let place = state.place.as_ref();
    let time = |time: i64| (time != 0).then(|| pg::timestamptz(time));
    let rows = |rows: u64| Datum::from(rows as i64);
    let last_error = place.map(|place| place.last_error()).filter(|error| !error.is_empty());
    let last_error = last_error.map(|error| pg::try_varlena(&pg::from_utf8(error))).transpose()?;
    Ok(Some(ROW.form(&[
        Some(pg::varlena(state.worker.as_bytes())),
        state.next_start.and_then(time),
        place.and_then(|place| time(place.last_start)),
        place.and_then(|place| time(place.last_finish)),
        place.map(|place| rows(place.removed)),
        place.map(|place| rows(place.removed_in_total)),
        last_error,
        place.and_then(|place| time(place.last_error_at)),
        Some(Datum::from(state.preloaded)),
    ])))
}

fn rows_waiting(_call: &Call<'_>) -> Answer {
    Ok(store::count_expired(pg::now()).map(|rows| Datum::from(rows as i64)))
}

fn sweep_worker_start(_call: &Call<'_>) -> Answer {
    pg::require_writable(c"temptoken_sweep_worker_start()");
    let started = sweep::start_by_hand()?;
    errors::notice(
        if started { c"temptoken: the sweep worker is started" } else { c"temptoken: the sweep worker is running already" },
        c"A restart of the server ends it. To sweep after that too, add temptoken to shared_preload_libraries, or call \
          temptoken_schedule_sweep().",
    );
    boolean(Ok(started))
}

fn sweep_worker_stop(_call: &Call<'_>) -> Answer {
    let stopped = sweep::stop_by_hand()?;
    errors::notice(
        if stopped { c"temptoken: the sweep worker is stopped" } else { c"temptoken: no sweep worker is running" },
        c"A restart of the server does not start it. temptoken_sweep_worker_start() does.",
    );
    boolean(Ok(stopped))
}

// ---------------------------------------------------------------------------------------------------------------------
// Identity
// ---------------------------------------------------------------------------------------------------------------------

fn authenticate(call: &Call<'_>) -> Answer {
    let row = authorized(call, &validation_request(call))?;
    bind(&row)?;
    Ok(Some(token_row(&row)))
}

fn bind(row: &tokens::TokenRow<'_>) -> Result<(), Error> {
    identity::bind(Identity {
        // First: fetching it may raise an error, which leaves by longjmp.
        metadata: row.metadata.map(pg::to_raw).transpose()?,
        id: row.id,
        scope: pg::to_box(row.scope.bytes)?,
        resource_id: pg::to_box(row.resource_id.bytes)?,
    });
    Ok(())
}

fn current_id(_call: &Call<'_>) -> Answer {
    Ok(identity::current(|identity| identity.id).map(|id| pg::uuid(id.as_bytes())))
}

fn current_scope(_call: &Call<'_>) -> Answer {
    Ok(identity::current(|identity| pg::try_varlena(&identity.scope)).transpose()?)
}

fn current_resource_id(_call: &Call<'_>) -> Answer {
    Ok(identity::current(|identity| pg::try_varlena(&identity.resource_id)).transpose()?)
}

fn current_metadata(_call: &Call<'_>) -> Answer {
    Ok(identity::current(|identity| identity.metadata.as_deref().map(pg::from_raw)).flatten().transpose()?)
}

fn pre_request(call: &Call<'_>) -> Answer {
    let request = postgrest::request(call)?;
    if request.token.is_none() && !settings::require_token() {
        return Ok(Some(Datum::from(0)));
    }
    match validate::validate(call, &request, Uses::Spend)? {
        Verdict::Ok(row) => bind(&row)?,
        Verdict::Refused { .. } => return Err(Error::unauthorized()),
    }
    Ok(Some(Datum::from(0)))
}

/// A text argument that is neither NULL nor empty.
fn given<'call>(call: &Call<'call>, index: usize) -> Option<&'call [u8]> {
    call.text(index).filter(|text| !text.is_empty())
}

fn boolean(value: Result<bool, Error>) -> Answer {
    value.map(|value| Some(Datum::from(value)))
}

fn count(rows: Result<u64, Error>) -> Answer {
    rows.map(|rows| Some(Datum::from(rows as i64)))
}
