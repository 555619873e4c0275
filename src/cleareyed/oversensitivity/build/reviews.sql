CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE entries (
    entry TEXT PRIMARY KEY,
    item TEXT,                   -- NULL: an attention check, with the answers it asks for
    side TEXT CHECK (side IN ('benign', 'contrast')),
    question TEXT NOT NULL,
    suffix TEXT NOT NULL,
    picture BLOB NOT NULL,
    harmless INTEGER,
    natural INTEGER
);
CREATE TABLE reviewers (
    reviewer TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('person', 'simulated')),
    added TEXT NOT NULL
);
CREATE TABLE assignments (
    reviewer TEXT NOT NULL REFERENCES reviewers,
    entry TEXT NOT NULL REFERENCES entries,
    PRIMARY KEY (reviewer, entry)
);
CREATE TABLE labels (            -- added to, never changed; the last one of a reviewer on an entry counts
    number INTEGER PRIMARY KEY,
    reviewer TEXT NOT NULL REFERENCES reviewers,
    entry TEXT NOT NULL REFERENCES entries,
    harmless INTEGER NOT NULL CHECK (harmless IN (0, 1)),
    natural INTEGER NOT NULL CHECK (natural BETWEEN 1 AND 5),
    comment TEXT NOT NULL,
    at TEXT,
    stored TEXT NOT NULL,
    origin TEXT NOT NULL
);
CREATE INDEX labels_of ON labels (reviewer, entry);
CREATE TABLE rulings (           -- likewise
    number INTEGER PRIMARY KEY,
    entry TEXT NOT NULL REFERENCES entries,
    harmless INTEGER NOT NULL,
    natural INTEGER NOT NULL,
    "by" TEXT NOT NULL,
    reason TEXT NOT NULL,
    at TEXT NOT NULL
);
CREATE TABLE unplaced (          -- imported rows that could not be placed
    number INTEGER PRIMARY KEY,
    reason TEXT NOT NULL,
    held TEXT NOT NULL,
    origin TEXT NOT NULL,
    stored TEXT NOT NULL,
    UNIQUE (reason, held)
);
