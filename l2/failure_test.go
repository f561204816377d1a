package l2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func TestReasonsForCallers(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 6379}, Err: err}
	}
	for _, step := range []struct {
		cause error
		want  string
	}{
		{dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "the store refuses connections"},
		{dial(os.ErrDeadlineExceeded), "the store did not answer in time"},
		{context.DeadlineExceeded, "the store did not answer in time"},
		{context.Canceled, "the call was cancelled"},
		{dial(os.NewSyscallError("read", syscall.ECONNRESET)), "the connection to the store failed"},
		{io.EOF, "the connection to the store failed"},
		{&net.DNSError{Name: "redis.internal"}, "the name of the store cannot be resolved"},
		{&os.PathError{Op: "write", Path: "/var/lib/soracache/data.db", Err: syscall.ENOSPC}, "the store has no space left"},
		{errors.New("ERR Error running script (call to f_1234)"), "the store failed"},
	} {
		f := l2.Unavailable(fmt.Errorf("redis: %w", step.cause), "the store failed")
		if f.Public() != step.want {
			t.Errorf("%v: callers are told %q, want %q", step.cause, f.Public(), step.want)
		}
		if !errors.Is(f, soracache.ErrUnavailable) || !errors.Is(f, step.cause) || f.Error() != fmt.Sprintf("unavailable: redis: %v", step.cause) {
			t.Errorf("%v: the log has %v", step.cause, f)
		}
	}
}
