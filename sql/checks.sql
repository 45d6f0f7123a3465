-- What is wrong with labels, as views; pipeline/checks says the same of frames, and one test holds both.
--
-- Limits are settings of the session: SET jengo.duplicate_iou = 0.6. Lengths are in metres; units_x and units_y
-- say how many units of the CRS make one along its axes, 1 unless set. `against` names the version of
-- predictions that a label version is compared with. Ids are -1 where there is none. Safe to run again.
--
-- What a view uses twice stands in a LATERAL query for each version: a WITH of the whole view is worked out
-- for every version there is, whichever one is asked for. OFFSET 0 keeps the planner from merging queries.

CREATE OR REPLACE FUNCTION jengo.check_limit(name text, fallback double precision)
RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT coalesce(CAST(nullif(current_setting('jengo.' || name, true), '') AS double precision), fallback)
$$;

CREATE OR REPLACE FUNCTION jengo.in_metres(geom geometry)
RETURNS geometry LANGUAGE sql STABLE AS $$
    SELECT ST_Scale(geom, 1 / jengo.check_limit('units_x', 1), 1 / jengo.check_limit('units_y', 1))
$$;

COMMENT ON FUNCTION jengo.in_metres IS 'A geometry whose units are metres on the ground, along the axes of its CRS';

CREATE OR REPLACE VIEW jengo.sound_rows AS
SELECT r.image_id, r.version, v.kind, r.row_id, r.category, r.score, r.geom, ST_Area(r.geom) AS area
FROM jengo.version_rows r
JOIN jengo.versions v USING (image_id, version)
WHERE ST_IsValid(r.geom) AND ST_Area(r.geom) > 0;

COMMENT ON VIEW jengo.sound_rows IS 'Rows that have an area and cross nothing';

-- The index on geometries first, which alone finds few rows; then the version; then what callers ask.
CREATE OR REPLACE FUNCTION jengo.sound_rows_near(of_image text, of_version text, place geometry)
RETURNS TABLE (row_id bigint, category text, score double precision, geom geometry, area double precision)
LANGUAGE sql STABLE AS $$
    SELECT row_id, category, score, geom, ST_Area(geom)
    FROM (SELECT * FROM jengo.version_rows WHERE geom && place OFFSET 0) AS near
    WHERE image_id = of_image AND version = of_version AND ST_IsValid(geom) AND ST_Area(geom) > 0
    OFFSET 0
$$;

COMMENT ON FUNCTION jengo.sound_rows_near IS 'Sound rows of a version whose box meets that of a place';

CREATE OR REPLACE FUNCTION jengo.matching_rows(of_image text, of_version text, building geometry)
RETURNS TABLE (
    row_id bigint, category text, score double precision, geom geometry, area double precision,
    shared double precision
)
LANGUAGE sql STABLE AS $$
    SELECT *
    FROM (
        SELECT *, ST_Area(ST_Intersection(geom, building)) AS shared
        FROM jengo.sound_rows_near(of_image, of_version, building)
        OFFSET 0
    ) AS near
    WHERE shared / (area + ST_Area(building) - shared) > jengo.check_limit('match_iou', 0.3)
$$;

COMMENT ON FUNCTION jengo.matching_rows IS 'Sound rows of a version that show the same building';

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
SELECT v.image_id, v.version, found.*
FROM jengo.versions v
CROSS JOIN LATERAL (
    WITH pairs AS (
        SELECT
            a.row_id, b.row_id AS other_id, a.geom,
            a.category, b.category AS other_category, a.area, b.area AS other_area,
            ST_Area(ST_Intersection(a.geom, b.geom)) AS shared
        FROM jengo.sound_rows a
        CROSS JOIN LATERAL jengo.sound_rows_near(v.image_id, v.version, a.geom) b
        WHERE a.image_id = v.image_id AND a.version = v.version AND b.row_id > a.row_id
        OFFSET 0
    ),
    measured AS (
        SELECT *, shared / (area + other_area - shared) AS iou, shared / least(area, other_area) AS share
        FROM pairs
    )
    SELECT 'duplicate' AS rule, row_id, other_id, iou AS value, geom
    FROM measured
    WHERE iou > jengo.check_limit('duplicate_iou', 0.5)
    UNION ALL
    SELECT 'conflicting_condition', row_id, other_id, iou, geom
    FROM measured
    WHERE iou > jengo.check_limit('duplicate_iou', 0.5) AND category <> other_category
    UNION ALL
    SELECT 'overlap', row_id, other_id, share, geom
    FROM measured
    WHERE iou <= jengo.check_limit('duplicate_iou', 0.5) AND share > jengo.check_limit('overlap_share', 0.1)
) AS found;

CREATE OR REPLACE VIEW jengo.check_outliers AS
SELECT v.image_id, v.version, found.*
FROM jengo.versions v
CROSS JOIN LATERAL (
    WITH sized AS (
        SELECT
            row_id, geom, ln(area) AS size, 4 * pi() * ST_Area(shape) / ST_Perimeter(shape) ^ 2 AS compactness
        FROM jengo.sound_rows
        CROSS JOIN LATERAL (SELECT jengo.in_metres(geom) AS shape OFFSET 0) AS shapes
        WHERE image_id = v.image_id AND version = v.version
    ),
    middle AS (
        SELECT count(*) AS rows, percentile_cont(0.5) WITHIN GROUP (ORDER BY size) AS size
        FROM sized
    ),
    centred AS (
        SELECT s.row_id, s.geom, abs(s.size - m.size) AS off
        FROM sized s
        CROSS JOIN middle m
    ),
    spread AS (
        SELECT 1.4826 * percentile_cont(0.5) WITHIN GROUP (ORDER BY off) AS spread
        FROM centred
    )
    SELECT
        'area_outlier' AS rule, row_id, CAST(-1 AS bigint) AS other_id,
        off / spread AS value, geom
    FROM centred
    CROSS JOIN middle
    CROSS JOIN spread
    WHERE
        spread > 0 AND rows >= jengo.check_limit('outlier_rows', 10)
        AND off > spread * jengo.check_limit('area_deviations', 5)
    UNION ALL
    SELECT 'shape_outlier', row_id, -1, compactness, geom
    FROM sized
    WHERE compactness < jengo.check_limit('compactness', 0.15)
) AS found;

CREATE OR REPLACE VIEW jengo.check_ground AS
SELECT v.image_id, v.version, found.*
FROM jengo.versions v
JOIN jengo.grounds g USING (image_id)
CROSS JOIN LATERAL (
    WITH lying AS (
        SELECT
            row_id, geom, area, ST_Area(ST_Intersection(geom, g.footprint)) AS inside,
            CASE WHEN g.valid IS NOT NULL THEN ST_Area(ST_Intersection(geom, g.valid)) END AS shown
        FROM jengo.sound_rows
        WHERE image_id = v.image_id AND version = v.version
    )
    SELECT
        'outside_image' AS rule, row_id, CAST(-1 AS bigint) AS other_id, 1 - inside / area AS value, geom
    FROM lying
    WHERE 1 - inside / area > jengo.check_limit('outside_share', 0.1)
    UNION ALL
    SELECT 'on_nodata', row_id, -1, (inside - shown) / area, geom
    FROM lying
    WHERE
        1 - inside / area <= jengo.check_limit('outside_share', 0.1)
        AND (inside - shown) / area > jengo.check_limit('outside_share', 0.1)
) AS found;

CREATE OR REPLACE VIEW jengo.compared_versions AS
SELECT l.image_id, l.version, p.version AS against, l.ground, l.srid
FROM jengo.versions l
JOIN jengo.versions p ON p.image_id = l.image_id
WHERE l.kind IN ('drawn', 'reviewed') AND p.kind IN ('model', 'ensemble');

COMMENT ON VIEW jengo.compared_versions IS 'Every version of labels beside every version of predictions';

CREATE OR REPLACE VIEW jengo.check_matches AS
SELECT
    v.image_id, v.version, v.against, l.row_id, p.row_id AS other_id, l.geom, l.area, p.area AS other_area,
    l.category, p.category AS other_category, p.score, p.shared
FROM jengo.compared_versions v
JOIN jengo.sound_rows l ON l.image_id = v.image_id AND l.version = v.version
CROSS JOIN LATERAL jengo.matching_rows(v.image_id, v.against, l.geom) p;

COMMENT ON VIEW jengo.check_matches IS 'Labels and predictions that show the same building';

CREATE OR REPLACE VIEW jengo.check_unlabelled AS
SELECT v.image_id, v.version, v.against, p.row_id AS other_id, p.score, p.geom, v.srid
FROM jengo.compared_versions v
JOIN jengo.sound_rows p ON p.image_id = v.image_id AND p.version = v.against
WHERE
    p.score >= jengo.check_limit('confident_score', 0.7)
    AND (v.ground IS NULL OR ST_Intersects(v.ground, ST_Centroid(p.geom)))
    AND NOT EXISTS (SELECT 1 FROM jengo.matching_rows(v.image_id, v.version, p.geom));

COMMENT ON VIEW jengo.check_unlabelled IS 'Confident predictions without a label, where labels are complete';

CREATE OR REPLACE VIEW jengo.check_regions AS
WITH squares AS (
    SELECT
        image_id, version, against, count(*) AS predictions,
        ST_MakeEnvelope(
            col * side_x, row * side_y, (col + 1) * side_x, (row + 1) * side_y, min(srid)
        ) AS geom
    FROM (
        SELECT
            *, floor(ST_X(ST_Centroid(geom)) / side_x) AS col, floor(ST_Y(ST_Centroid(geom)) / side_y) AS row
        FROM jengo.check_unlabelled
        CROSS JOIN (
            SELECT
                jengo.check_limit('region', 50) * jengo.check_limit('units_x', 1) AS side_x,
                jengo.check_limit('region', 50) * jengo.check_limit('units_y', 1) AS side_y
        ) AS sides
    ) AS placed
    GROUP BY image_id, version, against, col, row, side_x, side_y
)
SELECT s.image_id, s.version, s.against, s.predictions, s.geom
FROM squares s
WHERE
    s.predictions >= jengo.check_limit('region_predictions', 4)
    AND NOT EXISTS (
        SELECT 1
        FROM jengo.sound_rows_near(s.image_id, s.version, s.geom) l
        WHERE ST_Intersects(l.geom, s.geom)
    );

COMMENT ON VIEW jengo.check_regions IS 'Squares with confident predictions and no label at all';

CREATE OR REPLACE VIEW jengo.check_predictions AS
SELECT
    v.image_id, v.version, v.against,
    CASE WHEN p.row_id IS NULL THEN 'missed' ELSE 'doubtful_condition' END AS rule,
    l.row_id, coalesce(p.row_id, -1) AS other_id, coalesce(p.score, 0) AS value, l.geom
FROM jengo.compared_versions v
JOIN jengo.sound_rows l ON l.image_id = v.image_id AND l.version = v.version
LEFT JOIN LATERAL jengo.matching_rows(v.image_id, v.against, l.geom) p ON true
WHERE
    p.row_id IS NULL
    OR (p.score >= jengo.check_limit('confident_score', 0.7) AND l.category <> p.category)
UNION ALL
SELECT image_id, version, against, 'unlabelled', -1, other_id, score, geom
FROM jengo.check_unlabelled
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
SELECT v.image_id, v.version, v.against, found.*
FROM jengo.compared_versions v
CROSS JOIN LATERAL (
    WITH labels AS (
        SELECT row_id, area, ST_Centroid(geom) AS centre
        FROM jengo.sound_rows
        WHERE image_id = v.image_id AND version = v.version
    ),
    votes AS (
        SELECT
            l.row_id,
            (ST_X(p.centre) - ST_X(l.centre)) / jengo.check_limit('units_x', 1) AS dx,
            (ST_Y(p.centre) - ST_Y(l.centre)) / jengo.check_limit('units_y', 1) AS dy,
            jengo.check_limit('shift_cell', 1) AS cell
        FROM labels l
        CROSS JOIN LATERAL (
            SELECT area, ST_Centroid(geom) AS centre
            FROM jengo.sound_rows_near(
                v.image_id, v.against,
                ST_Expand(
                    l.centre,
                    jengo.check_limit('shift_search', 8) * jengo.check_limit('units_x', 1),
                    jengo.check_limit('shift_search', 8) * jengo.check_limit('units_y', 1)
                )
            )
        ) AS p
        WHERE least(l.area, p.area) >= 0.5 * greatest(l.area, p.area)
        OFFSET 0
    ),
    cells AS (
        SELECT *, floor(dx / cell + 0.5) AS col, floor(dy / cell + 0.5) AS row
        FROM votes
        WHERE
            abs(dx) <= jengo.check_limit('shift_search', 8)
            AND abs(dy) <= jengo.check_limit('shift_search', 8)
    ),
    fullest AS (
        SELECT col, row
        FROM cells
        GROUP BY col, row
        ORDER BY count(*) DESC, col * col + row * row, col, row
        LIMIT 1
    )
    SELECT
        percentile_cont(0.5) WITHIN GROUP (ORDER BY c.dx) AS dx,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY c.dy) AS dy,
        CAST(count(DISTINCT c.row_id) AS double precision) / (SELECT count(*) FROM labels) AS support,
        count(DISTINCT c.row_id) AS labels
    FROM cells c
    CROSS JOIN fullest f
    WHERE abs(c.dx - f.col * c.cell) <= 1.5 * c.cell AND abs(c.dy - f.row * c.cell) <= 1.5 * c.cell
    HAVING count(*) > 0
) AS found;

COMMENT ON VIEW jengo.check_shifts IS 'The offset from labels to predictions that most pairs agree on, in metres';
