-- Versions of an image's buildings beside each other: labels as drawn, what networks found, what people
-- made of it. A version is written once and never changed; every row says where it comes from.
-- Safe to run again.

CREATE TABLE IF NOT EXISTS jengo.versions (
    image_id text NOT NULL,
    version  text NOT NULL,
    kind     text NOT NULL,
    digest   text NOT NULL,
    round    integer NOT NULL,
    made_at  text NOT NULL,
    crs      text NOT NULL,
    srid     integer NOT NULL,
    ground   geometry,
    PRIMARY KEY (image_id, version)
);

COMMENT ON TABLE jengo.versions IS 'One row per image and version of its buildings';
COMMENT ON COLUMN jengo.versions.kind IS 'drawn, model, ensemble, proposed or reviewed';
COMMENT ON COLUMN jengo.versions.digest IS 'Of what the rows were made from';
COMMENT ON COLUMN jengo.versions.round IS 'Of the review, from 1; 0: of none';
COMMENT ON COLUMN jengo.versions.ground IS 'Where the rows are complete; NULL: everywhere';

CREATE TABLE IF NOT EXISTS jengo.version_rows (
    image_id text NOT NULL,
    version  text NOT NULL,
    row_id   bigint NOT NULL,
    category text,
    score    double precision,
    scores   text,
    parent   text,
    model    text,
    person   text,
    file     text,
    round    integer NOT NULL,
    made_at  text NOT NULL,
    seconds  double precision,
    status   text,
    geom     geometry,
    PRIMARY KEY (image_id, version, row_id),
    FOREIGN KEY (image_id, version) REFERENCES jengo.versions
);

COMMENT ON TABLE jengo.version_rows IS 'Buildings by version, with where each comes from';
COMMENT ON COLUMN jengo.version_rows.scores IS 'JSON object: category to probability';
COMMENT ON COLUMN jengo.version_rows.parent IS '<version>:<row_id> of the row it was made from';
COMMENT ON COLUMN jengo.version_rows.model IS '<name>/<weights digest> of the network, several joined by +';
COMMENT ON COLUMN jengo.version_rows.seconds IS 'That a person spent on it, where the tool records it';

CREATE INDEX IF NOT EXISTS version_rows_geom_idx ON jengo.version_rows USING gist (geom);

CREATE TABLE IF NOT EXISTS jengo.grounds (
    image_id  text PRIMARY KEY,
    footprint geometry NOT NULL,
    valid     geometry
);

COMMENT ON TABLE jengo.grounds IS 'Outline of every image checked, and where it shows anything; NULL: everywhere';
