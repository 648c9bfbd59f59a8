-- Verifying a JSON Web Token signed with HS256, after pgjwt's verify(), with pgcrypto's hmac(): no table is read, so
-- nothing can be revoked. The same claims: scope, resource and expiry.
CREATE EXTENSION pgcrypto SCHEMA bench;

CREATE FUNCTION bench.to_base64url(data bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT translate(encode(data, 'base64'), E'+/=\n', '-_')
$$;

CREATE FUNCTION bench.from_base64url(data text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT decode(translate(data, '-_', '+/') || repeat('=', (4 - length(data) % 4) % 4), 'base64')
$$;

CREATE FUNCTION bench.signature(signed text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT bench.to_base64url(bench.hmac(signed, 'a key of thirty-two random bytes', 'sha256'))
$$;

-- The claims, or NULL.
CREATE FUNCTION bench.verify_hs256(jwt text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT claims
    FROM convert_from(bench.from_base64url(split_part(jwt, '.', 2)), 'UTF8') AS payload,
        CAST(payload AS jsonb) AS claims
    WHERE bench.signature(split_part(jwt, '.', 1) || '.' || split_part(jwt, '.', 2)) = split_part(jwt, '.', 3)
        AND to_timestamp((claims ->> 'exp')::bigint) > clock_timestamp()
$$;

CREATE UNLOGGED TABLE bench.jwts AS
SELECT c.n, s.signed || '.' || bench.signature(s.signed) AS jwt
FROM bench.calls AS c,
    LATERAL (SELECT json_build_object('scope', 'files', 'sub', substr(c.path, 8), 'exp',
        extract(epoch FROM now() + interval '1 day')::bigint)::text AS text) AS claims,
    LATERAL (SELECT bench.to_base64url('{"alg":"HS256","typ":"JWT"}') || '.' ||
        bench.to_base64url(convert_to(claims.text, 'UTF8')) AS signed) AS s
WHERE c.n <= 50000;
CREATE INDEX ON bench.jwts (n);
