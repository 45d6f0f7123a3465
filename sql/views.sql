-- What people ask of the label store.

CREATE OR REPLACE VIEW jengo.labels_with_source AS
SELECT l.image_id, l.label_id, l.source_row, l.category, l.geom, s.crs, s.digest, s.loaded_at
FROM jengo.labels l
JOIN jengo.label_sets s USING (image_id);

COMMENT ON VIEW jengo.labels_with_source IS 'Labels with the set they were loaded in';

CREATE OR REPLACE VIEW jengo.label_counts AS
SELECT s.image_id, l.category, count(l.label_id) AS labels, sum(ST_Area(l.geom)) AS area_crs
FROM jengo.label_sets s
LEFT JOIN jengo.labels l USING (image_id)
GROUP BY s.image_id, l.category;

COMMENT ON VIEW jengo.label_counts IS 'Labels by image and category; area in the square of the CRS''s unit';

CREATE OR REPLACE VIEW jengo.set_aside AS
SELECT s.image_id, reasons.rule, reasons.source_rows::integer
FROM jengo.label_sets s
CROSS JOIN LATERAL jsonb_each_text(s.report -> 'set_aside') AS reasons (rule, source_rows);

COMMENT ON VIEW jengo.set_aside IS 'Rows of the label files that gave no label, by reason';

CREATE OR REPLACE VIEW jengo.invalid_labels AS
SELECT image_id, label_id, source_row, ST_IsValidReason(geom) AS reason, geom
FROM jengo.labels
WHERE NOT ST_IsValid(geom);

COMMENT ON VIEW jengo.invalid_labels IS 'Labels that SQL made invalid after loading; empty otherwise';
