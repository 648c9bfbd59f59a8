//! axum with sqlx: requests are let in by their token.
//!
//!     cargo run        with DATABASE_URL and PORT
//!
//! Copy the dependencies of Cargo.toml too. Of LETTING_IN and PEEKED take what you use; rustc warns of the other.

use axum::extract::{OriginalUri, Path, Query, Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use sqlx::postgres::{PgPoolOptions, types::PgInterval};
use sqlx::{PgConnection, PgPool};
use std::time::Duration;

// --- To copy: from here ----------------------------------------------------------------------------------------------

/// What a handler learns of its request's token.
#[derive(Clone)]
struct Token {
    resource_id: String,
}

/// What validation is asked about. All are text.
#[derive(Clone)]
struct Presented {
    token: Option<String>,
    method: String,
    path: String,
}

impl Presented {
    /// OriginalUri is what the client wrote, in a nested router too, where `Uri` is stripped. Its path is not decoded.
    fn of(parts: &Parts) -> Self {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = || header("authorization").map(|value| value.strip_prefix("Bearer ").unwrap_or(value));
        let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
        let token = header("x-temp-token").or_else(bearer).map(str::to_owned);
        Self { token, method: parts.method.to_string(), path: uri.path().to_owned() }
    }

    /// An error whose SQLSTATE is the refusal's. If the work fails after it, the use comes back.
    async fn validated(&self, connection: &mut PgConnection) -> Result<Token, Refused> {
        let sql = "SELECT resource_id FROM auth.temptoken_validate($1, $2, $3)";
        let query = sqlx::query_as(sql).bind(&self.token).bind(&self.method).bind(&self.path);
        let (resource_id,) = query.fetch_one(connection).await?;
        Ok(Token { resource_id })
    }
}

/// A TTL is a PgInterval, made of a Duration; ids are text. A `replace => true` in the call ends the earlier links to this id.
async fn mint(pool: &PgPool, resource_id: &str) -> Result<String, Refused> {
    let ttl = PgInterval::try_from(Duration::from_secs(15 * 60)).expect("it has no nanoseconds");
    let sql = "SELECT auth.temptoken_mint('files', $1, $2)"; // 'files' is your scope.
    sqlx::query_scalar(sql).bind(resource_id).bind(ttl).fetch_one(pool).await.map_err(|error| match sqlstate(&error) {
        Some(code) if code.starts_with("TT") => Refused::NotMinted(code),
        _ => Refused::Database(error),
    })
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// The name that try_validate and peek answer, for the SQLSTATE that validate raises.
fn name_of(error: &sqlx::Error) -> Option<&'static str> {
    // A statement of the handler that answers no row.
    if matches!(error, sqlx::Error::RowNotFound) {
        return Some("resource_gone");
    }
    Some(match sqlstate(error)?.as_str() {
        "TT001" => "token_not_found",
        "TT002" => "token_expired",
        "TT003" => "scope_unknown",
        "TT004" => "route_not_allowed",
        "TT006" => "token_used_up",
        _ => return None,
    })
}

enum Refused {
    Status(String),
    /// No link can be made for this, by this SQLSTATE.
    NotMinted(String),
    Database(sqlx::Error),
    Work,
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// All refusals are alike to the stranger, and told apart in the log. What is wrong with the database is none.
impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let answer = |status, error| (status, Json(json!({"error": error}))).into_response();
        let name = match self {
            Self::Status(status) => status,
            Self::Work => return answer(StatusCode::INTERNAL_SERVER_ERROR, "failed"),
            Self::NotMinted(code) => {
                eprintln!("not minted: {code}");
                return answer(StatusCode::BAD_REQUEST, "no link can be made for this");
            }
            Self::Database(error) => match name_of(&error) {
                Some(name) => name.to_owned(),
                None => {
                    eprintln!("database: {:?}", sqlstate(&error));
                    return answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
                }
            },
        };
        eprintln!("refused {name}");
        let headers = [("WWW-Authenticate", r#"Bearer error="invalid_token""#), ("Cache-Control", "no-store")];
        (StatusCode::UNAUTHORIZED, headers, Json(json!({"error": "invalid_token"}))).into_response()
    }
}

/// Way one, for reading: one call judges, and spends where the scope says so.
const LETTING_IN: &str = "SELECT status, resource_id FROM auth.temptoken_try_validate($1, $2, $3)";

/// Way two, for work: refuses early and spends nothing. The handler validates in the transaction of its work.
const PEEKED: &str = "SELECT status, resource_id FROM auth.temptoken_peek($1, $2, $3)";

#[derive(Clone)]
struct Judge {
    pool: PgPool,
    sql: &'static str,
}

async fn judge(State(judge): State<Judge>, request: Request, next: Next) -> Result<Response, Refused> {
    let (mut parts, body) = request.into_parts();
    let presented = Presented::of(&parts);
    let query = sqlx::query_as(judge.sql).bind(&presented.token).bind(&presented.method).bind(&presented.path);
    let (status, resource_id): (String, Option<String>) = query.fetch_one(&judge.pool).await?;
    let Some(resource_id) = resource_id.filter(|_| status == "ok") else { return Err(Refused::Status(status)) };
    parts.extensions.insert(Token { resource_id });
    parts.extensions.insert(presented);
    let mut response = next.run(Request::from_parts(parts, body)).await;
    // No cache keeps the answer, unless its handler sets a header of its own.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    Ok(response)
}

// --- to here ---------------------------------------------------------------------------------------------------------

async fn read(Path(id): Path<String>, Extension(token): Extension<Token>) -> Json<Value> {
    Json(json!({"id": id, "resource_id": token.resource_id}))
}

#[derive(serde::Deserialize)]
struct Approve {
    fail: Option<String>,
}

async fn approve(
    State(pool): State<PgPool>,
    Extension(presented): Extension<Presented>,
    Query(query): Query<Approve>,
) -> Result<Json<Value>, Refused> {
    let mut transaction = pool.begin().await?;
    let token = presented.validated(&mut transaction).await?;
    let update = sqlx::query("UPDATE flows SET approved = true WHERE id = $1 RETURNING id").bind(&token.resource_id);
    update.fetch_one(&mut *transaction).await?;
    if query.fail.is_some() {
        return Err(Refused::Work); // The transaction is rolled back when it is dropped.
    }
    transaction.commit().await?;
    Ok(Json(json!({"approved": token.resource_id})))
}

async fn link(State(pool): State<PgPool>, Path(id): Path<String>) -> Result<impl IntoResponse, Refused> {
    Ok(([(CACHE_CONTROL, "no-store")], Json(json!({"token": mint(&pool, &id).await?}))))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [url, port] =
        ["DATABASE_URL", "PORT"].map(|name| std::env::var(name).unwrap_or_else(|_| panic!("{name} has to be set")));
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(3)).connect(&url).await?;
    let by = |sql| from_fn_with_state(Judge { pool: pool.clone(), sql }, judge);
    let files = Router::new().route("/{id}", get(read)).layer(by(LETTING_IN));
    let flows = Router::new().route("/flows/{id}/approve", post(approve)).route_layer(by(PEEKED));
    let app = Router::new().nest("/files", files).merge(flows).route("/links/{id}", post(link)).with_state(pool);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on 127.0.0.1:{port}");
    Ok(axum::serve(listener, app).await?)
}
