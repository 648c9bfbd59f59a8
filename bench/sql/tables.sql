-- What the benchmark needs beside the extension's tables, in every database.
CREATE SCHEMA bench;

-- Every token that was minted to fill the database, in order. Only a benchmark keeps these.
CREATE UNLOGGED TABLE bench.minted (n integer, token text, resource_id text);

-- Calls to be made: random tokens of those that live, in random order.
CREATE UNLOGGED TABLE bench.calls (n integer, id uuid, token text, path text, hash text);

-- A table of the same shape as the extension's own, for statements written by hand.
CREATE TABLE bench.same_shape (LIKE temptoken.temp_tokens INCLUDING ALL);

-- The table that people write for tokens: a random key, the hash unique, an index for the cron job that deletes what has
-- expired and one for deleting by resource.
CREATE TABLE bench.usual (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    token_hash bytea NOT NULL UNIQUE,
    scope text COLLATE "C" NOT NULL,
    resource_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    uses_left integer,
    metadata jsonb
);
CREATE INDEX ON bench.usual (expires_at);
CREATE INDEX ON bench.usual (scope, resource_id);

-- Until when tokens that were minted have been taken for a competitor.
CREATE UNLOGGED TABLE bench.taken AS SELECT '-infinity'::timestamptz AS at;
