//! The functions that SQL can call: read arguments, call, shape the answer.
//!
//! Lives here: one short function for each C function that sql/ declares, whose COMMENT there says what it takes and
//! answers. May not come in here: decisions.
//!
//! Texts are in the bytes of the database's encoding, whatever that is. No function is STRICT, so that every one sees NULL
//! and decides.

use std::fmt::Write as _;

use crate::errors::{self, Error, Kind};
use crate::identity::{self, Identity};
use crate::pg::{
    self, Boolean, Call, ColumnText, Datum, Int4, Int8, Internal, Interval, Jsonb, RowType, Text, TextList,
    Timestamptz, Uuid, row_type, sql_functions,
};
use crate::scope::{self, Scope, ScopeRow};
use crate::store::{self, expired, scopes, tokens};
use crate::sweep;
use crate::token::{Token, TokenId};
use crate::validate::{Request, Uses, Verdict};
use crate::values::{Span, TextArray, to_box};
use crate::{counters, mint, postgrest, settings, validate};

type Answer = Result<Option<Datum>, Error>;
type Bytes<'call> = Option<&'call [u8]>;

sql_functions! {
    temptoken_register_scope(Text, TextList, Interval, Text, Int4, TextList, Boolean) => register_scope;
    temptoken_lookup_scope(Text) => lookup_scope;
    temptoken_unregister_scope(Text) => unregister_scope;
    temptoken_scope_is_valid(Text, TextList, Text, Interval, Int4, TextList) => scope_is_valid;
    temptoken_scopes_changed() => scopes_changed;
    temptoken_planner_support(Internal) => planner_support;
    temptoken_mint(Text, Text, Interval, Jsonb, Int4, Boolean) => mint_one;
    temptoken_mint_many(Text, TextList, Interval, Jsonb, Int4, Boolean) => mint_many;
    temptoken_validate(Text, Text, Text) => validate_or_raise;
    temptoken_try_validate(Text, Text, Text) => try_validate;
    temptoken_peek(Text, Text, Text) => peek;
    temptoken_delete(Text) => delete;
    temptoken_delete_by_id(Uuid) => delete_by_id;
    temptoken_delete_by_resource_id(Text, Text) => delete_by_resource_id;
    temptoken_delete_by_scope(Text) => delete_by_scope;
    temptoken_delete_expired(Timestamptz) => delete_expired;
    temptoken_delete_by_resource_id_trigger() => delete_by_resource_id_trigger;
    temptoken_introspect(Text) => introspect;
    temptoken_find_tokens(Text) => find_tokens;
    temptoken_stats() => stats;
    temptoken_sweep_state() => sweep_state;
    temptoken_rows_waiting() => rows_waiting;
    temptoken_sweep_worker_start() => sweep_worker_start;
    temptoken_sweep_worker_stop() => sweep_worker_stop;
    temptoken_authenticate(Text, Text, Text) => authenticate;
    temptoken_current_id() => current_id;
    temptoken_current_scope() => current_scope;
    temptoken_current_resource_id() => current_resource_id;
    temptoken_current_metadata() => current_metadata;
    temptoken_pre_request() => pre_request;
    temptoken_signatures() => signatures;
}

/// For the tests, which compare it with the catalog, and not declared in sql/: a line for each function, of its name and the
/// oids of its arguments' types.
fn signatures(_call: &Call<'_>, (): ()) -> Answer {
    let mut lines = String::new();
    for (name, types) in SIGNATURES {
        lines.push_str(name);
        for oid in *types {
            // Writing to a String does not fail.
            let _ = write!(lines, " {}", oid.to_u32());
        }
        lines.push('\n');
    }
    Ok(Some(pg::try_varlena(lines.as_bytes())?))
}

/// What a function answers that returns void, or a trigger, which must not return NULL (commands/trigger.c).
fn nothing() -> Answer {
    Ok(Some(Datum::from(0)))
}

// Scopes

type ScopeArguments<'call> = (
    Bytes<'call>,
    Option<TextArray<'call>>,
    Option<Span>,
    Bytes<'call>,
    Option<i32>,
    Option<TextArray<'call>>,
    Option<bool>,
);

fn register_scope(call: &Call<'_>, arguments: ScopeArguments<'_>) -> Answer {
    pg::require_writable(c"temptoken_register_scope()");
    let (name, allowed_routes, max_ttl, resource_id_in_path, max_uses, spending_methods, replace) = arguments;
    let row = ScopeRow { name, allowed_routes, resource_id_in_path, max_ttl, max_uses, spending_methods };
    check_scope(&row)?;
    // The table's columns are in another order than the arguments.
    let columns = [0, 1, 3, 2, 4, 5].map(|argument| call.datum(argument));
    let name = name.unwrap_or_default();
    if !scopes::register(&columns, replace.unwrap_or(false))? {
        return Err(Error::scope_already_registered(name));
    }
    errors::warn_of_routes(name, &scope::suspicions(&row));
    nothing()
}

fn lookup_scope(call: &Call<'_>, (name,): (Bytes<'_>,)) -> Answer {
    name.map_or(Ok(None), |name| scopes::lookup(call, name))
}

fn unregister_scope(_call: &Call<'_>, (name,): (Bytes<'_>,)) -> Answer {
    pg::require_writable(c"temptoken_unregister_scope()");
    boolean(name.map_or(Ok(false), scopes::unregister))
}

/// The constraint of the table scopes. It raises rather than answers false, so that whoever writes a scope learns what is
/// wrong.
fn scope_is_valid(
    _call: &Call<'_>,
    (name, allowed_routes, resource_id_in_path, max_ttl, max_uses, spending_methods): (
        Bytes<'_>,
        Option<TextArray<'_>>,
        Bytes<'_>,
        Option<Span>,
        Option<i32>,
        Option<TextArray<'_>>,
    ),
) -> Answer {
    check_scope(&ScopeRow { name, allowed_routes, resource_id_in_path, max_ttl, max_uses, spending_methods })?;
    boolean(Ok(true))
}

fn check_scope(row: &ScopeRow<'_>) -> Result<(), Error> {
    Scope::new(row).map(drop).map_err(|problem| Error::invalid_scope(row.name, &problem))
}

/// What the planner asks. An answer for one row is none for another that has the same arguments.
fn planner_support(call: &Call<'_>, (_request,): (Option<Datum>,)) -> Answer {
    if call.is_asked_about_join() {
        pg::call_for_each_row()?;
    }
    nothing()
}

/// The trigger on scopes.
fn scopes_changed(call: &Call<'_>, (): ()) -> Answer {
    call.invalidate_trigger_table();
    nothing()
}

// Tokens

/// The arguments of mint and mint_many, with what differs between them as `Id`.
type MintArguments<'call, Id> = (Bytes<'call>, Id, Option<Span>, Option<Datum>, Option<i32>, Option<bool>);

fn mint_one(call: &Call<'_>, arguments: MintArguments<'_, Bytes<'_>>) -> Answer {
    pg::require_writable(c"temptoken_mint()");
    let (scope, resource_id, ttl, metadata, max_uses, replace) = arguments;
    let request = mint::Request { scope, ttl, metadata, max_uses, replace: replace.unwrap_or(false) };
    mint::one(call, &request, resource_id).map(Some)
}

fn mint_many(call: &Call<'_>, arguments: MintArguments<'_, Option<TextArray<'_>>>) -> Answer {
    static ROW: RowType = row_type!(resource_id Text, token Text);
    pg::require_writable(c"temptoken_mint_many()");
    let (scope, resource_ids, ttl, metadata, max_uses, replace) = arguments;
    let request = mint::Request { scope, ttl, metadata, max_uses, replace: replace.unwrap_or(false) };
    let pairs = mint::many(call, &request, resource_ids.as_ref().zip(call.datum(1)))?;
    call.rows(&ROW, |put| {
        for (resource_id, token) in pairs.resource_ids.iter().zip(pairs.tokens) {
            put(&[Some(*resource_id), Some(*token)]);
        }
    });
    Ok(None)
}

type RequestArguments<'call> = (Bytes<'call>, Bytes<'call>, Bytes<'call>);

impl<'call> From<RequestArguments<'call>> for Request<'call> {
    fn from((token, method, path): RequestArguments<'call>) -> Self {
        Self { token, method, path }
    }
}

fn validate_or_raise<'call>(call: &Call<'call>, arguments: RequestArguments<'call>) -> Answer {
    authorized(call, &arguments.into()).map(|row| Some(token_row(&row)))
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
    static ROW: RowType = row_type!(
        id Uuid, scope Text, resource_id Text, expires_at Timestamptz, metadata Jsonb, uses_left Int4
    );
    ROW.form(&token_columns(row))
}

fn try_validate<'call>(call: &Call<'call>, arguments: RequestArguments<'call>) -> Answer {
    validate_as_value(call, &arguments.into(), Uses::Spend)
}

fn peek<'call>(call: &Call<'call>, arguments: RequestArguments<'call>) -> Answer {
    validate_as_value(call, &arguments.into(), Uses::Keep)
}

fn validate_as_value<'call>(call: &Call<'call>, request: &Request<'call>, uses: Uses) -> Answer {
    static ROW: RowType = row_type!(
        status Text, id Uuid, scope Text, resource_id Text, expires_at Timestamptz, metadata Jsonb, uses_left Int4
    );
    let (status, columns) = match validate::validate(call, request, uses)? {
        Verdict::Ok(row) => ("ok", token_columns(&row)),
        Verdict::Refused { refusal, .. } => (refusal.name(), [None; 6]),
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

fn delete(call: &Call<'_>, (token,): (Bytes<'_>,)) -> Answer {
    pg::require_writable(c"temptoken_delete()");
    let Some(token) = token.and_then(Token::parse) else { return boolean(Ok(false)) };
    let known = validate::find(call, &token)?.is_some();
    boolean(if known { tokens::delete(token.id()) } else { Ok(false) })
}

fn delete_by_id(_call: &Call<'_>, (id,): (Option<[u8; 16]>,)) -> Answer {
    pg::require_writable(c"temptoken_delete_by_id()");
    boolean(id.map_or(Ok(false), |id| tokens::delete(TokenId::from_bytes(id))))
}

fn delete_by_resource_id(_call: &Call<'_>, (scope, resource_id): (Bytes<'_>, Bytes<'_>)) -> Answer {
    pg::require_writable(c"temptoken_delete_by_resource_id()");
    count(match (filled(scope), filled(resource_id)) {
        (Some(scope), Some(resource_id)) => tokens::delete_by_resource_id(scope, resource_id),
        _ => Ok(0),
    })
}

fn delete_by_scope(_call: &Call<'_>, (scope,): (Bytes<'_>,)) -> Answer {
    pg::require_writable(c"temptoken_delete_by_scope()");
    count(filled(scope).map_or(Ok(0), tokens::delete_by_scope))
}

fn delete_expired(_call: &Call<'_>, (before,): (Option<i64>,)) -> Answer {
    pg::require_writable(c"temptoken_delete_expired()");
    count(before.map_or(Ok(0), expired::delete_expired))
}

fn delete_by_resource_id_trigger(call: &Call<'_>, (): ()) -> Answer {
    let trigger = call.trigger().ok_or(Kind::NoTrigger)?;
    trigger.is_owner_allowed().then_some(()).ok_or(Kind::TriggerPrivilege)?;
    let (scope, column) = trigger.two_arguments().ok_or(Kind::TriggerArguments)?;
    match trigger.old_value(column) {
        ColumnText::Unfit => return Err(Error::trigger_column(column.to_bytes())),
        ColumnText::Null | ColumnText::Value(b"") => {}
        ColumnText::Value(resource_id) => _ = tokens::delete_by_resource_id(scope.to_bytes(), resource_id)?,
    }
    nothing()
}

fn introspect(call: &Call<'_>, (token,): (Bytes<'_>,)) -> Answer {
    let active = match token.and_then(Token::parse) {
        Some(token) => validate::find_active(call, &token)?,
        None => None,
    };
    match active {
        None => Ok(pg::jsonb(call, r#"{"active": false}"#)?),
        Some(row) => tokens::describe(call, &row),
    }
}

fn find_tokens(call: &Call<'_>, (text,): (Bytes<'_>,)) -> Answer {
    static ROW: RowType = row_type!(id Uuid, known Boolean, active Boolean);
    let (mut seen, memory) = (pg::Set::new(call), pg::StepMemory::new(call));
    let mut failure = Ok(());
    call.rows(&ROW, |put| {
        failure = Token::candidates(text.unwrap_or_default()).try_for_each(|candidate| {
            pg::check_for_interrupts();
            let Some(token) = Token::parse(candidate) else { return Ok(()) };
            memory.step(|| {
                if seen.insert(token.digest().as_bytes()) {
                    let known = validate::find(call, &token)?.is_some();
                    let active = validate::find_active(call, &token)?.is_some();
                    put(&[Some(pg::uuid(token.id().as_bytes())), Some(Datum::from(known)), Some(Datum::from(active))]);
                }
                Ok(())
            })
        });
    });
    failure.map(|()| None)
}

/// Live and expired tokens of each scope, and what was counted of it.
fn stats(call: &Call<'_>, (): ()) -> Answer {
    static ROW: RowType = row_type!(scope Text, live Int8, expired Int8, next_expiry Timestamptz, outcomes Jsonb);
    tokens::lock_to_read()?;
    let names = scopes::names(call)?;
    let (mut counted, mut failure) = (Ok(()), None);
    let memory = pg::StepMemory::new(call);
    call.rows(&ROW, |put| {
        counted = tokens::count_by_scope(names, |row| {
            memory.step(|| match counts(call, row.get::<Text>(1)) {
                Ok(outcomes) => put(&[row.datum(1), row.datum(2), row.datum(3), row.datum(4), outcomes]),
                Err(error) => failure = Some(error),
            });
        });
    });
    counted?;
    failure.map_or(Ok(None), Err)
}

/// What is counted of `scope`, as a jsonb. `None` if nothing is.
fn counts(call: &Call<'_>, scope: Bytes<'_>) -> Answer {
    let Some(counts) = counters::of(scope) else { return Ok(None) };
    let fields: Vec<_> = counts.iter().map(|(name, count)| format!("\"{name}\": {count}")).collect();
    Ok(pg::jsonb(call, &format!("{{{}}}", fields.join(", ")))?)
}

// Sweeping

fn sweep_state(_call: &Call<'_>, (): ()) -> Answer {
    static ROW: RowType = row_type!(
        worker Text, next_start Timestamptz, last_start Timestamptz, last_finish Timestamptz, rows_removed Int8,
        rows_removed_in_total Int8, last_error Text, last_error_at Timestamptz, preloaded Boolean
    );
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

fn rows_waiting(_call: &Call<'_>, (): ()) -> Answer {
    Ok(pg::unless_it_fails(|| store::count_expired(pg::now())).flatten().map(|rows| Datum::from(rows as i64)))
}

fn sweep_worker_start(_call: &Call<'_>, (): ()) -> Answer {
    pg::require_writable(c"temptoken_sweep_worker_start()");
    let started = sweep::start_by_hand()?;
    pg::notice(
        if started {
            c"temptoken: the sweep worker is started"
        } else {
            c"temptoken: the sweep worker is running already"
        },
        c"A restart of the server ends it, and so does a crash. To sweep after that too, add temptoken to \
          shared_preload_libraries, or call temptoken_schedule_sweep().",
    );
    boolean(Ok(started))
}

fn sweep_worker_stop(_call: &Call<'_>, (): ()) -> Answer {
    let stopped = sweep::stop_by_hand()?;
    pg::notice(
        if stopped { c"temptoken: the sweep worker is stopped" } else { c"temptoken: no sweep worker is running" },
        c"A restart of the server does not start it. temptoken_sweep_worker_start() does.",
    );
    boolean(Ok(stopped))
}

// Identity

fn authenticate<'call>(call: &Call<'call>, arguments: RequestArguments<'call>) -> Answer {
    let row = authorized(call, &arguments.into())?;
    bind(&row)?;
    Ok(Some(token_row(&row)))
}

fn bind(row: &tokens::TokenRow<'_>) -> Result<(), Error> {
    Ok(identity::bind(Identity {
        // First: fetching it may raise an error, which leaves by longjmp.
        metadata: row.metadata.map(pg::to_boxed).transpose()?,
        id: row.id,
        scope: to_box(row.scope.bytes)?,
        resource_id: to_box(row.resource_id.bytes)?,
    })?)
}

fn current_id(_call: &Call<'_>, (): ()) -> Answer {
    Ok(identity::current(|identity| identity.id).map(|id| pg::uuid(id.as_bytes())))
}

fn current_scope(_call: &Call<'_>, (): ()) -> Answer {
    Ok(identity::current(|identity| pg::try_varlena(&identity.scope)).transpose()?)
}

fn current_resource_id(_call: &Call<'_>, (): ()) -> Answer {
    Ok(identity::current(|identity| pg::try_varlena(&identity.resource_id)).transpose()?)
}

fn current_metadata(_call: &Call<'_>, (): ()) -> Answer {
    Ok(identity::current(|identity| identity.metadata.as_deref().map(pg::from_boxed)).flatten().transpose()?)
}

fn pre_request(call: &Call<'_>, (): ()) -> Answer {
    let request = postgrest::request(call)?;
    if request.token.is_none() && !settings::require_token() {
        return nothing();
    }
    match validate::validate(call, &request, Uses::Spend)? {
        Verdict::Ok(row) => bind(&row)?,
        Verdict::Refused { .. } => return Err(Error::unauthorized()),
    }
    postgrest::forbid_caching(call)?;
    nothing()
}

/// An argument that is neither NULL nor empty.
fn filled(text: Bytes<'_>) -> Bytes<'_> {
    text.filter(|text| !text.is_empty())
}

fn boolean(value: Result<bool, Error>) -> Answer {
    value.map(|value| Some(Datum::from(value)))
}

fn count(rows: Result<u64, Error>) -> Answer {
    rows.map(|rows| Some(Datum::from(rows as i64)))
}
