// net/http with pgx: requests are let in by their token.
//
//	go mod init server && go mod tidy && go run server.go        with DATABASE_URL and PORT
//
// Or with Debian's golang-github-jackc-pgx-v4-dev: GO111MODULE=off GOPATH=/usr/share/gocode go run server.go
//
// This is pgx v4. For v5 import github.com/jackc/pgx/v5, …/v5/pgconn and …/v5/pgxpool. There pgxpool.Connect is pgxpool.New, and
// pool.BeginFunc(ctx, …) is pgx.BeginFunc(ctx, pool, …).
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var pool *pgxpool.Pool

// --- To copy: from here ----------------------------------------------------------------------------------------------

// presented returns token, method and raw path of a request, all as text. RequestURI is what the client wrote, behind StripPrefix
// too. URL.Path is decoded.
func presented(r *http.Request) []interface{} {
	token := r.Header.Get("X-Temp-Token")
	if token == "" {
		token = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return []interface{}{token, r.Method, path}
}

// Token is what a handler learns of its request's token.
type Token struct{ ResourceID string }

type key struct{}

// tokenOf returns the token that let this request in.
func tokenOf(r *http.Request) Token { return r.Context().Value(key{}).(Token) }

// lettingIn is way one, for reading: one call judges, and spends where the scope says so.
func lettingIn(next http.HandlerFunc) http.HandlerFunc {
	return judging("SELECT status, coalesce(resource_id, '') FROM auth.temptoken_try_validate($1, $2, $3)", next)
}

// peeked is way two, for work: it refuses early and spends nothing. The handler calls validated in the transaction of its work.
func peeked(next http.HandlerFunc) http.HandlerFunc {
	return judging("SELECT status, coalesce(resource_id, '') FROM auth.temptoken_peek($1, $2, $3)", next)
}

func judging(sql string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store") // No cache keeps the answer, unless its handler sets a header of its own.
		var status string
		var token Token
		if err := pool.QueryRow(r.Context(), sql, presented(r)...).Scan(&status, &token.ResourceID); err != nil {
			fail(w, err)
		} else if status != "ok" {
			refuse(w, status)
		} else {
			next(w, r.WithContext(context.WithValue(r.Context(), key{}, token)))
		}
	}
}

// validated returns an error whose Code is the refusal's SQLSTATE. If the work fails after it, the use comes back.
func validated(tx pgx.Tx, r *http.Request) (token Token, err error) {
	sql := "SELECT resource_id FROM auth.temptoken_validate($1, $2, $3)"
	err = tx.QueryRow(r.Context(), sql, presented(r)...).Scan(&token.ResourceID)
	return token, err
}

// errMint says that no link can be made for this.
var errMint = errors.New("not minted")

// mint returns a new token. A TTL is a time.Duration; ids are text. A `replace => true` in the call ends the earlier links to this
// id.
func mint(ctx context.Context, resourceID string) (token string, err error) {
	sql := "SELECT auth.temptoken_mint('files', $1, $2)" // 'files' is your scope.
	err = pool.QueryRow(ctx, sql, resourceID, 15*time.Minute).Scan(&token)
	if code := sqlstate(err); strings.HasPrefix(code, "TT") {
		err = fmt.Errorf("%w: %s", errMint, code)
	}
	return token, err
}

// refusals are the names that try_validate and peek answer, for the SQLSTATEs that validate raises.
var refusals = map[string]string{
	"TT001": "token_not_found",
	"TT002": "token_expired",
	"TT003": "scope_unknown",
	"TT004": "route_not_allowed",
	"TT006": "token_used_up",
}

// refuse answers a refusal: all are alike to the stranger, and told apart in the log.
func refuse(w http.ResponseWriter, name string) {
	log.Println("refused", name)
	w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, `{"error": "invalid_token"}`, http.StatusUnauthorized)
}

// errWork is what went wrong in the application itself.
var errWork = errors.New("the work has failed")

// fail answers an error: a refusal is 401, a link that cannot be made 400, the application's own error 500, and what is wrong with
// the database 503. Where a statement of the handler answers no row, the resource is gone.
func fail(w http.ResponseWriter, err error) {
	code := sqlstate(err)
	switch name, isRefusal := refusals[code]; {
	case isRefusal:
		refuse(w, name)
	case errors.Is(err, pgx.ErrNoRows):
		refuse(w, "resource_gone")
	case errors.Is(err, errMint):
		log.Println(err)
		http.Error(w, `{"error": "no link can be made for this"}`, http.StatusBadRequest)
	case errors.Is(err, errWork):
		http.Error(w, `{"error": "failed"}`, http.StatusInternalServerError)
	default:
		log.Printf("database: %T %s", err, code)
		http.Error(w, `{"error": "unavailable"}`, http.StatusServiceUnavailable)
	}
}

// sqlstate returns that of a database's error, or nothing.
func sqlstate(err error) string {
	var database *pgconn.PgError
	if errors.As(err, &database) {
		return database.Code
	}
	return ""
}

// --- to here ---------------------------------------------------------------------------------------------------------

func read(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, `{"id": %q, "resource_id": %q}`, strings.TrimPrefix(r.URL.Path, "/"), tokenOf(r).ResourceID)
}

func approve(w http.ResponseWriter, r *http.Request) {
	err := pool.BeginFunc(r.Context(), func(tx pgx.Tx) error {
		token, err := validated(tx, r)
		if err != nil {
			return err
		}
		sql := "UPDATE flows SET approved = true WHERE id = $1 RETURNING id"
		if err := tx.QueryRow(r.Context(), sql, token.ResourceID).Scan(&token.ResourceID); err != nil {
			return err
		}
		if r.URL.Query().Get("fail") != "" {
			return errWork
		}
		return nil
	})
	if err != nil {
		fail(w, err)
		return
	}
	fmt.Fprintf(w, `{"approved": %q}`, tokenOf(r).ResourceID)
}

func link(w http.ResponseWriter, r *http.Request) {
	token, err := mint(r.Context(), strings.TrimPrefix(r.URL.Path, "/links/"))
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprintf(w, `{"token": %q}`, token)
}

func main() {
	url, address := os.Getenv("DATABASE_URL"), "127.0.0.1:"+os.Getenv("PORT")
	if url == "" || os.Getenv("PORT") == "" {
		log.Fatal("DATABASE_URL and PORT have to be set")
	}
	var err error
	if pool, err = pgxpool.Connect(context.Background(), url); err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/files/", http.StripPrefix("/files", lettingIn(read)))
	mux.Handle("/flows/", peeked(approve))
	mux.HandleFunc("/links/", link)
	fmt.Println("listening on", address)
	log.Fatal(http.ListenAndServe(address, mux))
}
