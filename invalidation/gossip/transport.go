package gossip

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// network is memberlist's network, except that connections do not outlive it:
// otherwise closing would wait for whoever does not answer.
type network struct {
	*memberlist.NetTransport
	// ctx is the member's life; memberlist's interface has none.
	ctx context.Context
}

// listen binds one port for UDP and TCP. A free one of both has to be tried for.
func listen(ctx context.Context, bind netip.AddrPort, logger *log.Logger) (*network, error) {
	config := &memberlist.NetTransportConfig{
		BindAddrs: []string{bind.Addr().String()},
		BindPort:  int(bind.Port()),
		Logger:    logger,
	}
	for attempt := 1; ; attempt++ {
		t, err := memberlist.NewNetTransport(config)
		if err == nil {
			return &network{t, ctx}, nil
		}
		if bind.Port() != 0 || attempt == 10 || !strings.Contains(err.Error(), "address already in use") {
			return nil, fmt.Errorf("gossip: %w", err)
		}
	}
}

// DialTimeout connects to an address.
func (n *network) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return n.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout connects to a member.
func (n *network) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(n.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(n.ctx, func() { conn.Close() })
	return &ownedConn{conn, stop}, nil
}

// ownedConn is a connection that is closed with its network.
type ownedConn struct {
	net.Conn
	stop func() bool
}

func (c *ownedConn) Close() error {
	c.stop()
	return c.Conn.Close()
}
