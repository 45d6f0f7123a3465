-- The rows of one version; run after its row of jengo.versions, in the same transaction.

INSERT INTO jengo.version_rows (
    image_id, version, row_id, category, score, scores, parent, model, person, file, round, made_at,
    seconds, status, geom
)
SELECT
    :image_id, :version, row_id, category, score, scores, parent, model, person, file, round, made_at,
    seconds, status, ST_GeomFromWKB(wkb, CAST(:srid AS integer))
FROM unnest(
    CAST(:row_id AS bigint[]),
    CAST(:category AS text[]),
    CAST(:score AS double precision[]),
    CAST(:scores AS text[]),
    CAST(:parent AS text[]),
    CAST(:model AS text[]),
    CAST(:person AS text[]),
    CAST(:file AS text[]),
    CAST(:round AS integer[]),
    CAST(:made_at AS text[]),
    CAST(:seconds AS double precision[]),
    CAST(:status AS text[]),
    CAST(:wkb AS bytea[])
) AS rows (
    row_id, category, score, scores, parent, model, person, file, round, made_at, seconds, status, wkb
);
