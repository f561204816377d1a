package outbox

import (
	"fmt"
	"strconv"
	"strings"
)

// Dialect is the language of a database.
type Dialect uint8

// The dialects.
const (
	// SQLite is of any version since 3.8. Give its connections a busy_timeout.
	SQLite Dialect = iota + 1
	// Postgres is PostgreSQL 10 or later, and what speaks like it.
	Postgres
	// MySQL is MySQL 8.0 or later with InnoDB. (Earlier versions forget which ids
	// were given when they restart.)
	MySQL
)

func (d Dialect) known() bool { return d >= SQLite && d <= MySQL }

// String returns sqlite, postgres or mysql.
func (d Dialect) String() string {
	if !d.known() {
		return fmt.Sprintf("dialect(%d)", uint8(d))
	}
	return [...]string{"sqlite", "postgres", "mysql"}[d-SQLite]
}

// quote makes a name one that may be a keyword.
func (d Dialect) quote(name string) string {
	mark := `"`
	if d == MySQL {
		mark = "`"
	}
	return mark + strings.ReplaceAll(name, ".", mark+"."+mark) + mark
}

// parameter is the placeholder of the n-th argument, from 1.
func (d Dialect) parameter(n int) string {
	if d == Postgres {
		return "$" + strconv.Itoa(n)
	}
	return "?"
}

// parameters are the placeholders of n arguments, after others.
func (d Dialect) parameters(n, after int) string {
	var list strings.Builder
	for i := range n {
		if i > 0 {
			list.WriteString(", ")
		}
		list.WriteString(d.parameter(after + i + 1))
	}
	return list.String()
}

func qualified(table string) bool { return strings.Contains(table, ".") }

// statements are all that is ever said to a database, for one table.
//
// The column format says what a relay may do with a row: it takes those of its
// own format. Rows of a later version's format are left to that version, and a
// row that was set aside has its format negated.
type statements struct {
	dialect Dialect
	table   string // quoted
	schema  []string

	insert string // payload
	read   string
	newest string
	count  string
	// aside: error, id.
	aside string
}

func newStatements(d Dialect, table string, batch int) statements {
	name := d.quote(table)
	return statements{
		dialect: d,
		table:   name,
		schema:  schema(d, table),
		insert:  fmt.Sprintf("INSERT INTO %s (format, payload) VALUES (%d, %s)", name, version, d.parameter(1)),
		read:    fmt.Sprintf("SELECT id, payload FROM %s WHERE format = %d ORDER BY id LIMIT %d", name, version, batch),
		newest:  fmt.Sprintf("SELECT COALESCE(MAX(id), 0) FROM %s WHERE format = %d", name, version),
		count:   fmt.Sprintf("SELECT format, COUNT(*) FROM %s GROUP BY format", name),
		aside: fmt.Sprintf("UPDATE %s SET format = -format, error = %s WHERE id = %s AND format = %d",
			name, d.parameter(1), d.parameter(2), version),
	}
}

// remove deletes n rows by their ids: no others, whatever lies between them.
func (s statements) remove(n int) string {
	return fmt.Sprintf("DELETE FROM %s WHERE id IN (%s)", s.table, s.dialect.parameters(n, 0))
}

// restore gives back n rows by their ids, or all.
func (s statements) restore(n int) string {
	statement := fmt.Sprintf("UPDATE %s SET format = -format, error = NULL WHERE format < 0", s.table)
	if n > 0 {
		statement += fmt.Sprintf(" AND id IN (%s)", s.dialect.parameters(n, 0))
	}
	return statement
}

// schema makes the table and an index in which the rows of one format are in
// order. No dialect may give an id twice, also not after the row is gone:
// hence AUTOINCREMENT in SQLite.
func schema(d Dialect, table string) []string {
	name := d.quote(table)
	index := d.quote(table[strings.LastIndexByte(table, '.')+1:] + "_format")
	switch d {
	case SQLite:
		return []string{fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	format INTEGER NOT NULL,
	payload TEXT NOT NULL,
	error TEXT,
	created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)`, name), fmt.Sprintf("CREATE INDEX IF NOT EXISTS %s ON %s (format, id)", index, name)}
	case Postgres:
		return []string{fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (
	id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	format SMALLINT NOT NULL,
	payload TEXT NOT NULL,
	error TEXT,
	created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP
)`, name), fmt.Sprintf("CREATE INDEX IF NOT EXISTS %s ON %s (format, id)", index, name)}
	default:
		return []string{fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (
	id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
	format SMALLINT NOT NULL,
	payload LONGTEXT CHARACTER SET ascii NOT NULL,
	error TEXT,
	created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
	INDEX %s (format, id)
) ENGINE = InnoDB`, name, index)}
	}
}
