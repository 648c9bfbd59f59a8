// net/http with pgx: requests are let in by their token.
//
//	go run server.go        with DATABASE_URL and PORT
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

// mint returns a new token. A TTL is a time.Duration; ids are text.
func mint(ctx context.Context, resourceID string) (token string, err error) {
	sql := "SELECT auth.temptoken_mint('files', $1, $2)"
	err = pool.QueryRow(ctx, sql, resourceID, 15*time.Minute).Scan(&token)
	return token, err
}

// refuse answers a refusal: all are alike to the stranger, and told apart in the log.
func refuse(w http.ResponseWriter, status string) {
	log.Println("refused", status)
	w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, `{"error": "invalid_token"}`, http.StatusUnauthorized)
}

// errWork is what went wrong in the application itself.
var errWork = errors.New("the work has failed")

// fail answers an error: a refusal is 401, the application's own error 500, and what is wrong with the database 503.
func fail(w http.ResponseWriter, err error) {
	var database *pgconn.PgError
	switch {
	case errors.As(err, &database) && strings.HasPrefix(database.Code, "TT"):
		refuse(w, database.Code)
	case errors.Is(err, errWork):
		http.Error(w, `{"error": "failed"}`, http.StatusInternalServerError)
	default:
		if database != nil {
			log.Println("database:", database.Code)
		} else {
			log.Printf("database: %T", err)
		}
		http.Error(w, `{"error": "unavailable"}`, http.StatusServiceUnavailable)
	}
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
		if _, err := tx.Exec(r.Context(), "UPDATE flows SET approved = true WHERE id = $1", token.ResourceID); err != nil {
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
	fmt.Fprintf(w, `{"token": %q}`, token)
}

func main() {
	var err error
	if pool, err = pgxpool.Connect(context.Background(), os.Getenv("DATABASE_URL")); err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/files/", http.StripPrefix("/files", lettingIn(read)))
	mux.Handle("/flows/", peeked(approve))
	mux.HandleFunc("/links/", link)
	fmt.Println("listening")
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux))
}
