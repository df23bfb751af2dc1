package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"flotilla/internal/pages"
)

// The contents that rows write.
const (
	madeContents   = "made"
	sqliteContents = "sqlite"
)

// contentPages is how many pages a file of contents has.
const contentPages = 8192

// maker has SQLite make a database of a shop's orders, with two indexes, until its file is long enough.
const maker = `
import random, sqlite3, sys
random.seed(5)
path, size = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect(path)
db.executescript("""
PRAGMA page_size=8192; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, email TEXT, street TEXT, city TEXT, product TEXT, quantity INTEGER,
 price REAL, status TEXT, created TEXT, note TEXT);
CREATE INDEX by_customer ON orders (customer, created);
CREATE INDEX by_status ON orders (status, city);
""")
first = "Anna Ben Carla David Elif Farid Greta Hugo Ines Jonas Karin Lukas Maria Nils Olga Paul Rosa Simon Tina Uwe".split()
last = "Albers Becker Conrad Diaz Ernst Fischer Garcia Huber Ivanov Jensen Keller Lang Meyer Novak Otto Peters Ricci Schulz Tanaka Weber".split()
street = "Main High Station Mill Church Park Garden Lake Bridge Market".split()
city = "Berlin Hamburg Lyon Madrid Milano Oslo Praha Rotterdam Wien Zagreb".split()
product = "cable lamp chair table screw drill paint brush shelf hinge valve pump filter hose clamp".split()
words = "please deliver after six o'clock leave at the door ring twice call before gift wrapped urgent second attempt neighbour has key".split()
n = 0
while True:
    batch = []
    for _ in range(5000):
        n += 1
        a, b = random.choice(first), random.choice(last)
        batch.append((n, a + " " + b, "%s.%s%d@example.org" % (a.lower(), b.lower(), random.randrange(9999)), "%s Street %d" % (random.choice(street), random.randrange(1, 300)),
            random.choice(city), "%s %s-%04d" % (random.choice(product), random.choice("ABCDEF"), random.randrange(10000)), random.randrange(1, 40),
            round(random.lognormvariate(3, 1), 2), random.choice(["open", "paid", "sent", "done", "void"]),
            "2026-%02d-%02d %02d:%02d:%02d" % (random.randrange(1, 13), random.randrange(1, 29), random.randrange(24), random.randrange(60), random.randrange(60)),
            " ".join(random.choice(words) for _ in range(random.randrange(0, 12)))))
    db.executemany("INSERT INTO orders VALUES (?,?,?,?,?,?,?,?,?,?,?)", batch)
    db.commit()
    if db.execute("PRAGMA page_count").fetchone()[0] * 8192 >= size:
        break
db.close()
`

// makeContents makes the files of contents that rows want, and returns where they are.
func makeContents(ctx context.Context, o options, dir string, rows []*row) (map[string]string, error) {
	out := map[string]string{madeContents: filepath.Join(dir, "made.pages")}
	if err := os.WriteFile(out[madeContents], pages.Made(contentPages), 0o600); err != nil {
		return nil, fmt.Errorf("make pages: %w", err)
	}
	wanted := false
	for _, r := range rows {
		wanted = wanted || r.pages == sqliteContents
	}
	if !wanted {
		return out, nil
	}
	path := o.pages
	if path == "" {
		path = filepath.Join(dir, "orders.sqlite")
		text, err := exec.CommandContext(ctx, "python3", "-c", maker, path, fmt.Sprint(contentPages*pages.Size)).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("have SQLite make a database: %w: %s", err, text)
		}
	}
	content, err := pages.Of(path)
	if err != nil {
		return nil, err
	}
	out[sqliteContents] = filepath.Join(dir, "sqlite.pages")
	if err := os.WriteFile(out[sqliteContents], content, 0o600); err != nil {
		return nil, fmt.Errorf("keep the database's pages: %w", err)
	}
	return out, nil
}
