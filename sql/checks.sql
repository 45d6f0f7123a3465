-- What is wrong with labels, as views; pipeline/checks says the same of frames, and one test holds both.
--
-- Limits are settings of the session: SET jengo.duplicate_iou = 0.6; lengths are in units of the CRS, and
-- their defaults mean metres. `against` names the version of predictions that a label version is compared
-- with. Ids are -1 where there is none.

CREATE OR REPLACE FUNCTION jengo.check_limit(name text, fallback double precision)
RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT coalesce(CAST(nullif(current_setting('jengo.' || name, true), '') AS double precision), fallback)
$$;

CREATE OR REPLACE VIEW jengo.sound_rows AS
SELECT r.image_id, r.version, v.kind, r.row_id, r.category, r.score, r.geom, ST_Area(r.geom) AS area
FROM jengo.version_rows r
JOIN jengo.versions v USING (image_id, version)
WHERE ST_IsValid(r.geom) AND ST_Area(r.geom) > 0;

COMMENT ON VIEW jengo.sound_rows IS 'Rows that have an area and cross nothing';

CREATE OR REPLACE VIEW jengo.check_geometry AS
SELECT
    image_id, version,
    CASE
        WHEN geom IS NULL OR ST_IsEmpty(geom) THEN 'empty_geometry'
        WHEN ST_IsValid(geom) THEN 'empty_geometry'
        ELSE 'invalid_geometry'
    END AS rule,
    row_id, CAST(-1 AS bigint) AS other_id, CAST(0 AS double precision) AS value, geom
FROM jengo.version_rows
WHERE geom IS NULL OR NOT ST_IsValid(geom) OR NOT ST_Area(geom) > 0;

CREATE OR REPLACE VIEW jengo.check_overlaps AS
WITH pairs AS (
    SELECT
        a.image_id, a.version, a.row_id, b.row_id AS other_id, a.geom,
        a.category, b.category AS other_category, a.area, b.area AS other_area,
        ST_Area(ST_Intersection(a.geom, b.geom)) AS shared
    FROM jengo.sound_rows a
    JOIN jengo.sound_rows b
        ON b.image_id = a.image_id AND b.version = a.version AND b.row_id > a.row_id AND b.geom && a.geom
),
measured AS (
    SELECT *, shared / (area + other_area - shared) AS iou, shared / least(area, other_area) AS share
    FROM pairs
)
SELECT image_id, version, 'duplicate' AS rule, row_id, other_id, iou AS value, geom
FROM measured
WHERE iou > jengo.check_limit('duplicate_iou', 0.5)
UNION ALL
SELECT image_id, version, 'conflicting_condition', row_id, other_id, iou, geom
FROM measured
WHERE iou > jengo.check_limit('duplicate_iou', 0.5) AND category <> other_category
UNION ALL
SELECT image_id, version, 'overlap', row_id, other_id, share, geom
FROM measured
WHERE iou <= jengo.check_limit('duplicate_iou', 0.5) AND share > jengo.check_limit('overlap_share', 0.1);

CREATE OR REPLACE VIEW jengo.check_outliers AS
WITH centred AS (
    SELECT
        r.image_id, r.version, r.row_id, r.geom, c.rows, abs(ln(r.area) - c.centre) AS off,
        4 * pi() * r.area / ST_Perimeter(r.geom) ^ 2 AS compactness
    FROM jengo.sound_rows r
    JOIN (
        SELECT
            image_id, version, count(*) AS rows,
            percentile_cont(0.5) WITHIN GROUP (ORDER BY ln(area)) AS centre
        FROM jengo.sound_rows
        GROUP BY image_id, version
    ) c USING (image_id, version)
),
spread AS (
    SELECT image_id, version, 1.4826 * percentile_cont(0.5) WITHIN GROUP (ORDER BY off) AS spread
    FROM centred
    GROUP BY image_id, version
)
SELECT
    image_id, version, 'area_outlier' AS rule, row_id, CAST(-1 AS bigint) AS other_id,
    off / spread AS value, geom
FROM centred
JOIN spread USING (image_id, version)
WHERE
    spread > 0 AND rows >= jengo.check_limit('outlier_rows', 10)
    AND off > spread * jengo.check_limit('area_deviations', 5)
UNION ALL
SELECT image_id, version, 'shape_outlier', row_id, -1, compactness, geom
FROM centred
WHERE compactness < jengo.check_limit('compactness', 0.15);

CREATE OR REPLACE VIEW jengo.check_ground AS
WITH lying AS (
    SELECT
        r.image_id, r.version, r.row_id, r.geom, r.area,
        ST_Area(ST_Intersection(r.geom, g.footprint)) AS inside,
        CASE WHEN g.valid IS NOT NULL THEN ST_Area(ST_Intersection(r.geom, g.valid)) END AS shown
    FROM jengo.sound_rows r
    JOIN jengo.grounds g USING (image_id)
)
SELECT
    image_id, version, 'outside_image' AS rule, row_id, CAST(-1 AS bigint) AS other_id,
    1 - inside / area AS value, geom
FROM lying
WHERE 1 - inside / area > jengo.check_limit('outside_share', 0.1)
UNION ALL
SELECT image_id, version, 'on_nodata', row_id, -1, (inside - shown) / area, geom
FROM lying
WHERE
    1 - inside / area <= jengo.check_limit('outside_share', 0.1)
    AND (inside - shown) / area > jengo.check_limit('outside_share', 0.1);

CREATE OR REPLACE VIEW jengo.compared_versions AS
SELECT l.image_id, l.version, p.version AS against, l.ground, l.srid
FROM jengo.versions l
JOIN jengo.versions p ON p.image_id = l.image_id
WHERE l.kind IN ('drawn', 'reviewed') AND p.kind IN ('model', 'ensemble');

COMMENT ON VIEW jengo.compared_versions IS 'Every version of labels beside every version of predictions';

CREATE OR REPLACE VIEW jengo.check_matches AS
WITH pairs AS (
    SELECT
        v.image_id, v.version, v.against, l.row_id, p.row_id AS other_id, l.geom, l.area, p.area AS other_area,
        l.category, p.category AS other_category, p.score,
        ST_Area(ST_Intersection(l.geom, p.geom)) AS shared
    FROM jengo.compared_versions v
    JOIN jengo.sound_rows l ON l.image_id = v.image_id AND l.version = v.version
    JOIN jengo.sound_rows p ON p.image_id = v.image_id AND p.version = v.against AND p.geom && l.geom
)
SELECT *
FROM pairs
WHERE shared / (area + other_area - shared) > jengo.check_limit('match_iou', 0.3);

COMMENT ON VIEW jengo.check_matches IS 'Labels and predictions that show the same building';

CREATE OR REPLACE VIEW jengo.check_unlabelled AS
SELECT v.image_id, v.version, v.against, p.row_id AS other_id, p.score, p.geom, v.srid
FROM jengo.compared_versions v
JOIN jengo.sound_rows p ON p.image_id = v.image_id AND p.version = v.against
WHERE
    p.score >= jengo.check_limit('confident_score', 0.7)
    AND (v.ground IS NULL OR ST_Intersects(v.ground, ST_Centroid(p.geom)))
    AND NOT EXISTS (
        SELECT 1
        FROM jengo.sound_rows l
        WHERE
            l.image_id = v.image_id AND l.version = v.version AND l.geom && p.geom
            AND ST_Area(ST_Intersection(l.geom, p.geom))
            > jengo.check_limit('match_iou', 0.3) * ST_Area(ST_Union(l.geom, p.geom))
    );

COMMENT ON VIEW jengo.check_unlabelled IS 'Confident predictions without a label, where labels are complete';

CREATE OR REPLACE VIEW jengo.check_regions AS
WITH squares AS (
    SELECT
        image_id, version, against, count(*) AS predictions,
        ST_MakeEnvelope(
            col * side, row * side, (col + 1) * side, (row + 1) * side, min(srid)
        ) AS geom
    FROM (
        SELECT
            *, floor(ST_X(ST_Centroid(geom)) / side) AS col, floor(ST_Y(ST_Centroid(geom)) / side) AS row
        FROM jengo.check_unlabelled
        CROSS JOIN (SELECT jengo.check_limit('region', 50) AS side) AS sides
    ) AS placed
    GROUP BY image_id, version, against, col, row, side
)
SELECT s.image_id, s.version, s.against, s.predictions, s.geom
FROM squares s
WHERE
    s.predictions >= jengo.check_limit('region_predictions', 4)
    AND NOT EXISTS (
        SELECT 1
        FROM jengo.sound_rows l
        WHERE l.image_id = s.image_id AND l.version = s.version AND ST_Intersects(l.geom, s.geom)
    );

COMMENT ON VIEW jengo.check_regions IS 'Squares with confident predictions and no label at all';

CREATE OR REPLACE VIEW jengo.check_predictions AS
SELECT
    v.image_id, v.version, v.against, 'missed' AS rule, l.row_id, CAST(-1 AS bigint) AS other_id,
    CAST(0 AS double precision) AS value, l.geom
FROM jengo.compared_versions v
JOIN jengo.sound_rows l ON l.image_id = v.image_id AND l.version = v.version
LEFT JOIN (SELECT DISTINCT image_id, version, against, row_id FROM jengo.check_matches) m
    ON m.image_id = v.image_id AND m.version = v.version AND m.against = v.against AND m.row_id = l.row_id
WHERE m.row_id IS NULL
UNION ALL
SELECT image_id, version, against, 'unlabelled', -1, other_id, score, geom
FROM jengo.check_unlabelled
UNION ALL
SELECT image_id, version, against, 'doubtful_condition', row_id, other_id, score, geom
FROM jengo.check_matches
WHERE score >= jengo.check_limit('confident_score', 0.7) AND category <> other_category
UNION ALL
SELECT image_id, version, against, 'unlabelled_region', -1, -1, CAST(predictions AS double precision), geom
FROM jengo.check_regions;

CREATE OR REPLACE VIEW jengo.check_findings AS
SELECT image_id, version, CAST(NULL AS text) AS against, rule, row_id, other_id, value, geom
FROM (
    TABLE jengo.check_geometry
    UNION ALL TABLE jengo.check_overlaps
    UNION ALL TABLE jengo.check_outliers
    UNION ALL TABLE jengo.check_ground
) AS alone
UNION ALL
SELECT image_id, version, against, rule, row_id, other_id, value, geom
FROM jengo.check_predictions;

COMMENT ON VIEW jengo.check_findings IS 'What is wrong with every version; against is NULL where it is told without predictions';

CREATE OR REPLACE VIEW jengo.check_shifts AS
WITH centres AS (
    SELECT
        image_id, version, kind, row_id, area, geom,
        ST_X(ST_Centroid(geom)) AS x, ST_Y(ST_Centroid(geom)) AS y
    FROM jengo.sound_rows
),
votes AS (
    SELECT
        v.image_id, v.version, v.against, l.row_id, p.x - l.x AS dx, p.y - l.y AS dy,
        jengo.check_limit('shift_cell', 1) AS cell
    FROM jengo.compared_versions v
    JOIN centres l ON l.image_id = v.image_id AND l.version = v.version
    JOIN centres p
        ON p.image_id = v.image_id AND p.version = v.against
        AND p.geom && ST_Expand(l.geom, jengo.check_limit('shift_search', 8))
    WHERE
        abs(p.x - l.x) <= jengo.check_limit('shift_search', 8)
        AND abs(p.y - l.y) <= jengo.check_limit('shift_search', 8)
        AND least(l.area, p.area) >= 0.5 * greatest(l.area, p.area)
),
cells AS (
    SELECT *, floor(dx / cell + 0.5) AS col, floor(dy / cell + 0.5) AS row
    FROM votes
),
fullest AS (
    SELECT DISTINCT ON (image_id, version, against) image_id, version, against, col, row
    FROM cells
    GROUP BY image_id, version, against, col, row
    ORDER BY image_id, version, against, count(*) DESC, col * col + row * row, col, row
),
sizes AS (
    SELECT image_id, version, count(*) AS labels
    FROM jengo.sound_rows
    GROUP BY image_id, version
)
SELECT
    c.image_id, c.version, c.against,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY c.dx) AS dx,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY c.dy) AS dy,
    CAST(count(DISTINCT c.row_id) AS double precision) / min(s.labels) AS support,
    count(DISTINCT c.row_id) AS labels
FROM cells c
JOIN fullest f USING (image_id, version, against)
JOIN sizes s USING (image_id, version)
WHERE abs(c.dx - f.col * c.cell) <= 1.5 * c.cell AND abs(c.dy - f.row * c.cell) <= 1.5 * c.cell
GROUP BY c.image_id, c.version, c.against;

COMMENT ON VIEW jengo.check_shifts IS 'The offset from labels to predictions that most pairs agree on, in units of the CRS';
