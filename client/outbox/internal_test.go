package outbox

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// Rows that were written once are read for ever.
func TestPayloadV1(t *testing.T) {
	tests := []struct {
		text string
		what client.Invalidation
	}{
		{`{"v":1,"keys":["products:featured"],"tags":["products","product:42"]}`,
			client.Invalidation{Keys: []string{"products:featured"}, Tags: []string{"products", "product:42"}}},
		{`{"v":1,"all":true}`, client.Invalidation{All: true}},
		{`{"v":1,"tags":["t"],"ack":true,"settle_ns":1500000000}`,
			client.Invalidation{Tags: []string{"t"}, Acknowledge: true, Settle: 1500 * time.Millisecond}},
		{`{"v":1,"keys":["caf\u00e9 \u65e5\u672c \ud83e\udd95 \ufffd \u0000 \" \\ \u003c\u2028"]}`,
			client.Invalidation{Keys: []string{"café 日本 🦕 \ufffd \x00 \" \\ <\u2028"}}},
	}
	for _, tt := range tests {
		if got, err := encode(tt.what); got != tt.text || err != nil {
			t.Errorf("wrote %s, %v, want %s", got, err, tt.text)
		}
		if got, err := decode(tt.text); !reflect.DeepEqual(got, tt.what) || err != nil {
			t.Errorf("read %+v, %v from %s", got, err, tt.text)
		}
	}
}

func FuzzPayload(f *testing.F) {
	f.Add(`{"v":1,"keys":["k"],"tags":["\ud83e\udd95"],"all":true,"ack":true,"settle_ns":1}`)
	f.Fuzz(func(t *testing.T, text string) {
		what, err := decode(text)
		if err != nil {
			if !errors.Is(err, soracache.ErrInvalid) {
				t.Errorf("%v is no refusal", err)
			}
			return
		}
		again, err := encode(what)
		if err != nil {
			t.Fatalf("%+v was read and cannot be written: %v", what, err)
		}
		if strings.ContainsFunc(again, func(r rune) bool { return r >= utf8.RuneSelf }) {
			t.Errorf("not ASCII: %q", again)
		}
		if got, err := decode(again); !reflect.DeepEqual(targetsOf(got), targetsOf(what)) || err != nil {
			t.Errorf("%q became %q: %v", text, again, err)
		}
	})
}

func TestStatements(t *testing.T) {
	tests := map[Dialect]string{
		SQLite: `
CREATE TABLE IF NOT EXISTS "soracache_outbox" (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	format INTEGER NOT NULL,
	payload TEXT NOT NULL,
	error TEXT,
	created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)
CREATE INDEX IF NOT EXISTS "soracache_outbox_format" ON "soracache_outbox" (format, id)
INSERT INTO "soracache_outbox" (format, payload) VALUES (1, ?)
SELECT id, payload FROM "soracache_outbox" WHERE format = 1 ORDER BY id LIMIT 200
SELECT COALESCE(MAX(id), 0) FROM "soracache_outbox" WHERE format = 1
SELECT format, COUNT(*) FROM "soracache_outbox" GROUP BY format
UPDATE "soracache_outbox" SET format = -format, error = ? WHERE id = ? AND format = 1
DELETE FROM "soracache_outbox" WHERE id IN (?, ?, ?)
UPDATE "soracache_outbox" SET format = -format, error = NULL WHERE format < 0
UPDATE "soracache_outbox" SET format = -format, error = NULL WHERE format < 0 AND id IN (?, ?)
`,
		Postgres: `
CREATE TABLE IF NOT EXISTS "shop"."soracache_outbox" (
	id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	format SMALLINT NOT NULL,
	payload TEXT NOT NULL,
	error TEXT,
	created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP
)
CREATE INDEX IF NOT EXISTS "soracache_outbox_format" ON "shop"."soracache_outbox" (format, id)
INSERT INTO "shop"."soracache_outbox" (format, payload) VALUES (1, $1)
SELECT id, payload FROM "shop"."soracache_outbox" WHERE format = 1 ORDER BY id LIMIT 200
SELECT COALESCE(MAX(id), 0) FROM "shop"."soracache_outbox" WHERE format = 1
SELECT format, COUNT(*) FROM "shop"."soracache_outbox" GROUP BY format
UPDATE "shop"."soracache_outbox" SET format = -format, error = $1 WHERE id = $2 AND format = 1
DELETE FROM "shop"."soracache_outbox" WHERE id IN ($1, $2, $3)
UPDATE "shop"."soracache_outbox" SET format = -format, error = NULL WHERE format < 0
UPDATE "shop"."soracache_outbox" SET format = -format, error = NULL WHERE format < 0 AND id IN ($1, $2)
`,
		MySQL: "\nCREATE TABLE IF NOT EXISTS `shop`.`soracache_outbox` (" + `
	id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
	format SMALLINT NOT NULL,
	payload LONGTEXT CHARACTER SET ascii NOT NULL,
	error TEXT,
	created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
` + "	INDEX `soracache_outbox_format` (format, id)" + `
) ENGINE = InnoDB
` + strings.ReplaceAll(`INSERT INTO 'shop'.'soracache_outbox' (format, payload) VALUES (1, ?)
SELECT id, payload FROM 'shop'.'soracache_outbox' WHERE format = 1 ORDER BY id LIMIT 200
SELECT COALESCE(MAX(id), 0) FROM 'shop'.'soracache_outbox' WHERE format = 1
SELECT format, COUNT(*) FROM 'shop'.'soracache_outbox' GROUP BY format
UPDATE 'shop'.'soracache_outbox' SET format = -format, error = ? WHERE id = ? AND format = 1
DELETE FROM 'shop'.'soracache_outbox' WHERE id IN (?, ?, ?)
UPDATE 'shop'.'soracache_outbox' SET format = -format, error = NULL WHERE format < 0
UPDATE 'shop'.'soracache_outbox' SET format = -format, error = NULL WHERE format < 0 AND id IN (?, ?)
`, "'", "`"),
	}
	for d, want := range tests {
		table := "shop." + DefaultTable
		if d == SQLite {
			table = DefaultTable
		}
		s := newStatements(d, table, DefaultBatch)
		all := append([]string{""}, s.schema...)
		all = append(all, s.insert, s.read, s.newest, s.count, s.aside, s.remove(3), s.restore(0), s.restore(2), "")
		if got := strings.Join(all, "\n"); got != want {
			t.Errorf("%s says%s\nwant%s", d, got, want)
		}
	}
}
