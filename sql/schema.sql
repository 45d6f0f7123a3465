-- Tables of the label store. Safe to run again, and by hand before the first use.
--
-- Images have different CRSs, so the geometry column fixes none: every row carries the SRID of its
-- image, and only rows of one image ever meet. SRID 0 stands for a CRS without an EPSG code, whose
-- WKT is in label_sets; an entry of spatial_ref_sys would need more rights and an invented code.

CREATE SCHEMA IF NOT EXISTS jengo;

CREATE TABLE IF NOT EXISTS jengo.label_sets (
    image_id       text PRIMARY KEY,
    digest         text NOT NULL,
    crs            text NOT NULL,
    srid           integer NOT NULL,
    report         jsonb NOT NULL,
    schema_version integer NOT NULL,
    loaded_at      timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE jengo.label_sets IS 'One row per image: the marker that its labels are loaded, and what they came from';
COMMENT ON COLUMN jengo.label_sets.digest IS 'Of the settings and inputs that the labels were made from';
COMMENT ON COLUMN jengo.label_sets.crs IS 'EPSG:<code>, or WKT 2 where the CRS has no code';
COMMENT ON COLUMN jengo.label_sets.srid IS 'The EPSG code, or 0';

CREATE TABLE IF NOT EXISTS jengo.labels (
    image_id   text NOT NULL REFERENCES jengo.label_sets ON DELETE CASCADE,
    label_id   bigint NOT NULL,
    source_row bigint NOT NULL,
    category   text,
    geom       geometry(Polygon) NOT NULL,
    PRIMARY KEY (image_id, label_id)
);

COMMENT ON TABLE jengo.labels IS 'Clean building labels in the CRS of their image';
COMMENT ON COLUMN jengo.labels.source_row IS 'Row of the label file, from 0';
COMMENT ON COLUMN jengo.labels.category IS 'NULL: a building of unknown condition';

CREATE INDEX IF NOT EXISTS labels_geom_idx ON jengo.labels USING gist (geom);
