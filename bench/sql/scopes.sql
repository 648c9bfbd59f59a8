-- {scopes} scopes with {routes} routes each, {tokens} tokens in each scope, and a call of every token by a random route of
-- its scope, in random order.
INSERT INTO temptoken.scopes (name, allowed_routes, max_ttl, resource_id_in_path)
SELECT format('scope_%s_{scopes}_{routes}', s),
    ARRAY(SELECT format('GET /area/%s/files/{id}', r) FROM generate_series(1, {routes}) AS r), '7 days', '{id}'
FROM generate_series(1, {scopes}) AS s;

CREATE UNLOGGED TABLE bench.{table} AS
SELECT row_number() OVER () AS n, token,
    format('/area/%s/files/%s', 1 + floor(random() * {routes})::integer, resource_id) AS path
FROM (
    SELECT m.token, m.resource_id
    FROM generate_series(1, {scopes}) AS s,
        LATERAL temptoken_mint_many(format('scope_%s_{scopes}_{routes}', s),
            ARRAY(SELECT 'r' || i FROM generate_series(1, {tokens}) AS i), '1 day') AS m
    ORDER BY random()
) AS minted;
CREATE INDEX ON bench.{table} (n);
