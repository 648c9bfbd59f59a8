-- Tokens that are refused: expired ones; ones of an id that was never minted; texts that are no tokens, since one digit is
-- upper case.
CREATE UNLOGGED TABLE bench.expired AS
SELECT row_number() OVER () AS n, substr(token, 4, 32)::uuid AS id, token, resource_id, '/files/' || resource_id AS path
FROM (
    SELECT token, resource_id
    FROM temptoken_mint_many('files', ARRAY(SELECT 'r' || i FROM generate_series(1, 50000) AS i), '1 millisecond')
    ORDER BY random()
) AS minted;

CREATE UNLOGGED TABLE bench.unknown AS
SELECT n, substr(token, 4, 32)::uuid AS id, token, path
FROM (
    SELECT n, overlay(token PLACING substr(md5(n::text), 1, 15) FROM 21 FOR 15) AS token, path
    FROM bench.calls WHERE n <= 50000
) AS invented;

CREATE UNLOGGED TABLE bench.malformed AS
SELECT n, id, overlay(token PLACING 'A' FROM 99) AS token, path FROM bench.calls WHERE n <= 50000;

CREATE INDEX ON bench.expired (n);
CREATE INDEX ON bench.unknown (n);
CREATE INDEX ON bench.malformed (n);
