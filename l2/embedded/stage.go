package embedded

import "errors"

// A value of more than stageAbove bytes beyond its row is written beforehand,
// in transactions of about stagePiece bytes each.
const (
	stageAbove = 128 << 10
	stagePiece = 128 * chunkBytes
)

var errStaging = errors.New("a large value could not be written")

// staged is a value on its way in, piece by piece. Its id is in Store.staging
// until one of the pieces, or the last op, has failed or is done. As long as no
// entry has them, the pieces are garbage, so that whatever becomes of the
// request they will not stay; and as long as the id is in Store.staging, they
// are left alone.
type staged struct {
	id   uint64 // 0 before the first piece
	over bool   // no further piece is to be written
	why  error  // of the piece that failed, if one did
}

// stage returns the ops that write a value piece by piece, with the last op,
// which makes it an entry, at the end.
func (s *Store) stage(f *fresh, last *op) []*op {
	st, beyond := new(staged), f.beyond()
	f.staged = st
	end := func() {
		st.over = true
		delete(s.staging, st.id)
	}
	var ops []*op
	for from := 0; from < len(beyond); from += stagePiece {
		piece := beyond[from:min(from+stagePiece, len(beyond))]
		ops = append(ops, &op{
			size: len(piece),
			run:  func(t *txn) { t.stage(st, uint32(from/chunkBytes), piece) }, //nolint:gosec // small
			fail: func(err error) {
				st.why = err
				end()
			},
		})
	}
	last.size = chunkBytes // the rest is there already
	last.after = end
	return append(ops, last)
}

// stage writes one piece of a value on its way in.
func (t *txn) stage(st *staged, number uint32, piece []byte) {
	if st.over {
		return
	}
	if number == 0 {
		delete(t.s.staging, st.id) // of an earlier attempt that was rolled back
		st.id = t.next(bChunk)
		t.s.staging[st.id] = struct{}{}
		t.put(bGarbage, be64([]byte{'c'}, st.id), nil)
	}
	if t.s.isStaging(st.id) {
		t.putChunks(st.id, number, piece)
	}
}

// isStaging reports whether chunks are of a value that is being written.
func (s *Store) isStaging(id uint64) bool {
	_, ok := s.staging[id]
	return ok
}
