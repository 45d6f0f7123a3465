-- The labels of one image, in the place of the old ones; run after the marker row, in its transaction.
-- Four arrays of one length instead of a statement per row.

INSERT INTO jengo.labels (image_id, label_id, source_row, category, geom)
SELECT :image_id, label_id, source_row, category, ST_GeomFromWKB(wkb, CAST(:srid AS integer))
FROM unnest(
    CAST(:label_ids AS bigint[]),
    CAST(:source_rows AS bigint[]),
    CAST(:categories AS text[]),
    CAST(:wkbs AS bytea[])
) AS rows (label_id, source_row, category, wkb);
