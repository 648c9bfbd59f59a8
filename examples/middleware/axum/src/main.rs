//! axum with sqlx: requests are let in by their token.
//!
//!     cargo run        with DATABASE_URL and PORT

use axum::extract::{OriginalUri, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
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

/// A TTL is a PgInterval, made of a Duration; ids are text.
async fn mint(pool: &PgPool, resource_id: &str) -> Result<String, Refused> {
    let ttl = PgInterval::try_from(Duration::from_secs(15 * 60)).expect("it has no nanoseconds");
    let query = sqlx::query_scalar("SELECT auth.temptoken_mint('files', $1, $2)").bind(resource_id).bind(ttl);
    Ok(query.fetch_one(pool).await?)
}

enum Refused {
    Status(String),
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
        let status = match self {
            Self::Status(status) => status,
            Self::Work => return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"error": "failed"}))).into_response(),
            Self::Database(error) => match error.as_database_error().and_then(|error| error.code()) {
                Some(code) if code.starts_with("TT") => code.into_owned(),
                code => {
                    eprintln!("database: {code:?}");
                    return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": "unavailable"}))).into_response();
                }
            },
        };
        eprintln!("refused {status}");
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
    Ok(next.run(Request::from_parts(parts, body)).await)
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
    let update = sqlx::query("UPDATE flows SET approved = true WHERE id = $1").bind(&token.resource_id);
    update.execute(&mut *transaction).await?;
    if query.fail.is_some() {
        return Err(Refused::Work); // The transaction is rolled back when it is dropped.
    }
    transaction.commit().await?;
    Ok(Json(json!({"approved": token.resource_id})))
}

async fn link(State(pool): State<PgPool>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    Ok(Json(json!({"token": mint(&pool, &id).await?})))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [url, port] = ["DATABASE_URL", "PORT"].map(|name| std::env::var(name).expect(name));
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(3)).connect(&url).await?;
    let by = |sql| from_fn_with_state(Judge { pool: pool.clone(), sql }, judge);
    let files = Router::new().route("/{id}", get(read)).layer(by(LETTING_IN));
    let flows = Router::new().route("/flows/{id}/approve", post(approve)).route_layer(by(PEEKED));
    let app = Router::new().nest("/files", files).merge(flows).route("/links/{id}", post(link)).with_state(pool);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening");
    Ok(axum::serve(listener, app).await?)
}
