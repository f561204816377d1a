package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// errDamaged says that a file is not a sound bbolt file.
var errDamaged = errors.New("damaged")

// checkFile reads a data file and verifies everything that bbolt takes for
// granted: that its pages are where they say they are, hold elements within
// their bounds and in order, and are each referred to once. It returns the
// number of the last transaction.
//
// bbolt maps the file and walks it in goroutines of its own, where a page out
// of bounds is the end of the process, and no recover helps. So nothing is
// opened that was not checked. Values are not verified: entries and ledgers
// have checksums of their own.
func checkFile(path string) (txid int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	c := checker{file: f, pages: uint64(info.Size()) / pageSize} //nolint:gosec // not negative
	m, err := c.meta()
	if err == nil {
		c.seen = make([]uint64, c.pages/64+1)
		err = c.tree(m.root, nil, nil, 0)
	}
	if err == nil && m.freelist != noFreelist {
		err = c.freelist(m.freelist)
	}
	return int(m.txid), err //nolint:gosec // transactions ever made
}

// The numbers of the file format of bbolt.
const (
	metaMagic     = 0xED0CDAED
	metaVersion   = 2
	metaSummed    = 56
	pageHeader    = 16
	branchPage    = 0x01
	leafPage      = 0x02
	metaPage      = 0x04
	freelistPage  = 0x10
	noFreelist    = ^uint64(0)
	bucketElement = 0x01
	bucketHeader  = 16
	elementHeader = 16
	deepest       = 64 // no tree of sound pages comes near
)

// checker is a check on its way.
type checker struct {
	file  io.ReaderAt
	pages uint64   // in the file, and then below the high-water mark
	seen  []uint64 // a bit for each page that was referred to
}

type checkedMeta struct{ root, freelist, txid uint64 }

// damage returns an error for something about a page.
func damage(page uint64, format string, args ...any) error {
	return fmt.Errorf("%w: page %d: %s", errDamaged, page, fmt.Sprintf(format, args...))
}

// meta reads both meta pages and returns the newer. Both must be sound: going
// on with the older would silently take back the last transaction.
func (c *checker) meta() (newest checkedMeta, err error) {
	var most uint64
	for id := range uint64(2) {
		b, err := c.read(id, 1)
		if err != nil {
			return newest, err
		}
		m := b[pageHeader:]
		sum := fnv.New64a()
		sum.Write(m[:metaSummed])
		switch {
		case binary.NativeEndian.Uint64(b) != id || binary.NativeEndian.Uint16(b[8:]) != metaPage:
			return newest, damage(id, "not a meta page")
		case binary.NativeEndian.Uint32(m) != metaMagic || binary.NativeEndian.Uint32(m[4:]) != metaVersion:
			return newest, damage(id, "not of this format")
		case sum.Sum64() != binary.NativeEndian.Uint64(m[metaSummed:]):
			return newest, damage(id, "wrong checksum")
		case binary.NativeEndian.Uint32(m[8:]) != pageSize:
			return newest, damage(id, "pages of %d bytes", binary.NativeEndian.Uint32(m[8:]))
		}
		if txid := binary.NativeEndian.Uint64(m[48:]); txid >= newest.txid {
			newest = checkedMeta{
				root:     binary.NativeEndian.Uint64(m[16:]),
				freelist: binary.NativeEndian.Uint64(m[32:]),
				txid:     txid,
			}
			most = binary.NativeEndian.Uint64(m[40:])
		}
	}
	if most > c.pages {
		return newest, damage(0, "the file has %d of %d pages", c.pages, most)
	}
	c.pages = most
	return newest, nil
}

func (c *checker) read(id, count uint64) ([]byte, error) {
	b := make([]byte, count*pageSize)
	if _, err := c.file.ReadAt(b, int64(id*pageSize)); errors.Is(err, io.EOF) { //nolint:gosec // below the file's size
		return nil, damage(id, "not in the file")
	} else if err != nil {
		return nil, damage(id, "%v", err)
	}
	return b, nil
}

// tree checks the page and all below it, whose keys must be at or above low and
// below high (nil: unbounded).
func (c *checker) tree(id uint64, low, high []byte, depth int) error {
	b, err := c.page(id, leafPage, branchPage)
	if err != nil {
		return err
	}
	if depth > deepest {
		return damage(id, "too deep")
	}
	leaf := binary.NativeEndian.Uint16(b[8:]) == leafPage
	elements, err := parseElements(id, b, leaf)
	if err != nil {
		return err
	}
	if err := inOrder(id, elements, low, high); err != nil {
		return err
	}
	for i, e := range elements {
		switch {
		case leaf && e.bucket:
			err = c.bucket(id, e.value, depth+1)
		case !leaf:
			upper := high
			if i+1 < len(elements) {
				upper = elements[i+1].key
			}
			err = c.tree(e.child, e.key, upper, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// page reads a page of one of two kinds, and notes that it was referred to.
func (c *checker) page(id uint64, kind, otherKind uint16) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, damage(id, "out of bounds: there are %d", c.pages)
	}
	b, err := c.read(id, 1)
	if err != nil {
		return nil, err
	}
	flags, overflow := binary.NativeEndian.Uint16(b[8:]), uint64(binary.NativeEndian.Uint32(b[12:]))
	switch {
	case binary.NativeEndian.Uint64(b) != id:
		return nil, damage(id, "says that it is page %d", binary.NativeEndian.Uint64(b))
	case flags != kind && flags != otherKind:
		return nil, damage(id, "is of kind %#x", flags)
	case overflow >= c.pages-id:
		return nil, damage(id, "extends beyond the last page")
	}
	for p := id; p <= id+overflow; p++ {
		if err := c.see(p); err != nil {
			return nil, err
		}
	}
	if overflow > 0 {
		return c.read(id, 1+overflow)
	}
	return b, nil
}

// see notes that a page was referred to.
func (c *checker) see(page uint64) error {
	if c.seen[page/64]&(1<<(page%64)) != 0 {
		return damage(page, "is referred to twice")
	}
	c.seen[page/64] |= 1 << (page % 64)
	return nil
}

// freelist checks the list of free pages, none of which may be in use. It is
// written only at an orderly end.
func (c *checker) freelist(id uint64) error {
	b, err := c.page(id, freelistPage, freelistPage)
	if err != nil {
		return err
	}
	count := uint64(binary.NativeEndian.Uint16(b[10:]))
	b = b[pageHeader:]
	if count == 0xFFFF { // too many for that field
		count, b = binary.NativeEndian.Uint64(b), b[8:]
	}
	if count > uint64(len(b))/8 {
		return damage(id, "a list of %d free pages does not fit", count)
	}
	for i := range count {
		page := binary.NativeEndian.Uint64(b[8*i:])
		if page < 2 || page >= c.pages {
			return damage(id, "free page %d is out of bounds", page)
		}
		if err := c.see(page); err != nil {
			return err
		}
	}
	return nil
}

// element is one element of a page: of a leaf a key and a value, of a branch a
// key and a page.
type element struct {
	key, value []byte
	child      uint64
	bucket     bool
}

func parseElements(id uint64, b []byte, leaf bool) ([]element, error) {
	n := int(binary.NativeEndian.Uint16(b[10:]))
	if n == 0 && !leaf {
		return nil, damage(id, "a branch without elements")
	}
	if pageHeader+n*elementHeader > len(b) {
		return nil, damage(id, "%d elements do not fit", n)
	}
	elements := make([]element, n)
	for i := range elements {
		at := pageHeader + i*elementHeader
		h := b[at:]
		var pos, keySize, valueSize uint64
		if leaf {
			elements[i].bucket = binary.NativeEndian.Uint32(h)&bucketElement != 0
			pos, keySize, valueSize = uint64(binary.NativeEndian.Uint32(h[4:])), uint64(binary.NativeEndian.Uint32(h[8:])), uint64(binary.NativeEndian.Uint32(h[12:]))
		} else {
			pos, keySize = uint64(binary.NativeEndian.Uint32(h)), uint64(binary.NativeEndian.Uint32(h[4:]))
			elements[i].child = binary.NativeEndian.Uint64(h[8:])
		}
		if pos < uint64(elementHeader*(n-i)) || keySize == 0 || pos+keySize+valueSize > uint64(len(h)) { //nolint:gosec // small
			return nil, damage(id, "element %d is out of bounds", i)
		}
		elements[i].key, elements[i].value = h[pos:pos+keySize], h[pos+keySize:pos+keySize+valueSize]
	}
	return elements, nil
}

// inOrder checks that keys ascend, from low and below high.
func inOrder(id uint64, elements []element, low, high []byte) error {
	for i, e := range elements {
		if i == 0 && bytes.Compare(e.key, low) < 0 || i > 0 && bytes.Compare(e.key, elements[i-1].key) <= 0 {
			return damage(id, "element %d is out of order", i)
		}
		if high != nil && bytes.Compare(e.key, high) >= 0 {
			return damage(id, "element %d belongs to another page", i)
		}
	}
	return nil
}

// bucket checks a bucket, which has a tree of its own or, if it is small, is a
// page inside the value.
func (c *checker) bucket(id uint64, value []byte, depth int) error {
	if len(value) < bucketHeader {
		return damage(id, "a bucket of %d bytes", len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.tree(root, nil, nil, depth)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
		return damage(id, "a bucket without a page")
	}
	elements, err := parseElements(id, inline, true)
	if err != nil {
		return err
	}
	for _, e := range elements {
		if e.bucket {
			return damage(id, "a bucket within a small bucket")
		}
	}
	return inOrder(id, elements, nil, nil)
}
