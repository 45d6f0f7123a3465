-- The labels of one image clipped to all its tiles.
--
-- && finds the pairs in the index on bounding boxes; clipping then decides, once per pair.
-- ST_Intersection and not ST_ClipByBox2D, whose results may be invalid and only know upright boxes.

WITH tiles AS (
    SELECT position, ST_GeomFromWKB(wkb, CAST(:srid AS integer)) AS geom
    FROM unnest(CAST(:wkbs AS bytea[])) WITH ORDINALITY AS sent (wkb, position)
),
items AS (
    SELECT
        tiles.position,
        labels.label_id,
        labels.category,
        ST_Area(labels.geom) AS whole_area,
        CASE
            WHEN ST_Covers(tiles.geom, labels.geom) THEN labels.geom
            ELSE ST_CollectionExtract(ST_Intersection(labels.geom, tiles.geom), 3)
        END AS geom
    FROM tiles
    JOIN jengo.labels ON labels.image_id = :image_id AND labels.geom && tiles.geom
)
SELECT
    position,
    label_id,
    category,
    ST_AsBinary(geom) AS wkb,
    least(ST_Area(geom) / whole_area, 1.0) AS visible_share
FROM items
WHERE ST_Area(geom) > :min_visible_share * whole_area
ORDER BY position, label_id;
