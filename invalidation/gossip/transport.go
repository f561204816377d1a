package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// largestPacket is the most that UDP carries.
	largestPacket = 64 << 10
	// receiveBuffer is what the kernel is asked to keep of packets that come in
	// a burst. It may give less.
	receiveBuffer = 2 << 20
)

// network is memberlist's transport: one port, for packets by UDP and exchanges
// of state by TCP.
//
// memberlist's own takes 64 KiB of new memory for each packet, which at a
// thousand small ones a second is most of what a node allocates; and its
// connections outlive it, so that closing would wait for whoever does not
// answer. What connections may make a member hold is bounded by guard.
type network struct {
	tcp     *net.TCPListener
	udp     *net.UDPConn
	packets chan *memberlist.Packet
	streams chan net.Conn
	guard   *guard
	logger  *slog.Logger
	// refused are packets that were not looked at any further.
	refused atomic.Uint64

	// ctx ends with the network; memberlist's interface has none. work counts
	// who listens.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*network)(nil)

// listen binds one port for UDP and TCP. What is not encrypted is looked into,
// unless there are keys: then it is refused.
func listen(bind netip.AddrPort, keyed bool, logger *slog.Logger) (*network, error) {
	tcp, udp, err := bindBoth(bind)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	for size := receiveBuffer; udp.SetReadBuffer(size) != nil && size > 4096; {
		size /= 2
	}
	n := &network{
		tcp: tcp, udp: udp, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		guard: newGuard(keyed, logger), logger: logger,
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.work.Go(n.accept)
	n.work.Go(n.read)
	return n, nil
}

// bindBoth binds TCP and then UDP. A port that the kernel chose for the one may
// be taken for the other.
func bindBoth(bind netip.AddrPort) (*net.TCPListener, *net.UDPConn, error) {
	for attempt := 1; ; attempt++ {
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bind))
		if err != nil {
			return nil, nil, err
		}
		port := tcp.Addr().(*net.TCPAddr).AddrPort().Port() //nolint:forcetypeassert // it is of TCP
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind.Addr(), port)))
		if err == nil {
			return tcp, udp, nil
		}
		tcp.Close()
		if bind.Port() != 0 || attempt == 10 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, err
		}
	}
}

// bound is the address that is listened on.
func (n *network) bound() netip.AddrPort {
	addr := n.udp.LocalAddr().(*net.UDPAddr).AddrPort() //nolint:forcetypeassert // it is of UDP
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}

// FinalAdvertiseAddr is by which address others reach this member.
func (n *network) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	addr := n.bound().Addr()
	switch {
	case ip != "":
		given, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, 0, err
		}
		return given.Unmap().AsSlice(), port, nil
	case addr.IsUnspecified():
		own, err := ownAddress()
		if err != nil {
			return nil, 0, err
		}
		addr = own
	}
	return addr.AsSlice(), int(n.bound().Port()), nil
}

// ownAddress is an address of this machine: a private one if it has any.
func ownAddress() (netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	var other netip.Addr
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().Unmap().Is4() || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		if prefix.Addr().IsPrivate() {
			return prefix.Addr().Unmap(), nil
		}
		other = prefix.Addr().Unmap()
	}
	if !other.IsValid() {
		return other, errors.New("this machine has no address that others could use")
	}
	return other, nil
}

// read takes in packets.
func (n *network) read() {
	buffer := make([]byte, largestPacket)
	for {
		size, from, err := n.udp.ReadFromUDPAddrPort(buffer)
		at := time.Now()
		switch {
		case n.ctx.Err() != nil:
			return
		case err != nil:
			n.logger.Debug("gossip: a packet could not be read", "error", err)
			n.rest(5 * time.Millisecond)
			continue
		case size == 0: // memberlist does not expect that
			continue
		case !n.guard.keyed && vetPacket(buffer[:size], false) != nil:
			n.refused.Add(1)
			continue
		}
		packet := &memberlist.Packet{Buf: bytes.Clone(buffer[:size]), From: net.UDPAddrFromAddrPort(from), Timestamp: at}
		select {
		case n.packets <- packet:
		case <-n.ctx.Done():
			return
		}
	}
}

// accept takes in connections.
func (n *network) accept() {
	pause := time.Duration(0)
	for {
		conn, err := n.tcp.AcceptTCP()
		switch {
		case n.ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return
		case err != nil: // such as too many open files
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			n.logger.Warn("gossip: a connection could not be accepted", "error", err)
			n.rest(pause)
			continue
		}
		pause = 0
		select {
		case n.streams <- n.guard.own(n.ctx, conn, true):
		case <-n.ctx.Done():
			conn.Close()
			return
		}
	}
}

// rest keeps an error that stays from taking all of a processor.
func (n *network) rest(pause time.Duration) {
	select {
	case <-time.After(pause):
	case <-n.ctx.Done():
	}
}

// PacketCh is where packets come from.
func (n *network) PacketCh() <-chan *memberlist.Packet { return n.packets }

// StreamCh is where connections come from.
func (n *network) StreamCh() <-chan net.Conn { return n.streams }

// WriteTo sends a packet to an address.
func (n *network) WriteTo(b []byte, addr string) (time.Time, error) {
	return n.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends a packet to a member.
func (n *network) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = n.udp.WriteToUDPAddrPort(b, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	return time.Now(), err
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
	return n.guard.own(n.ctx, conn, false), nil
}

// Shutdown ends the network and waits for whoever listens.
func (n *network) Shutdown() error {
	n.cancel()
	err := errors.Join(n.tcp.Close(), n.udp.Close())
	n.work.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
