package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// DefaultPort is that of members to join whose address names none, if this
// member's own is not known before it has bound.
const DefaultPort = 7946

// DefaultLabel is what clusters are called that were not given a name.
const DefaultLabel = "soracache"

// Resolver finds the addresses of a name. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config says how a member takes part. Name and Bind are required; everything
// else may be left zero.
type Config struct {
	// Name is this member's, and unique for each boot: see [UniqueName].
	Name string
	// Bind is the host and port to listen on, for UDP and TCP. The host is an
	// IP address, "localhost", or empty for all IPv4 addresses; port 0 takes a
	// free one.
	Bind string
	// Advertise is the host, or host and port, by which others reach this
	// member. By default it is Bind, or a private address of this machine if
	// Bind is all addresses.
	Advertise string
	// Join lists members to join: addresses or names, with or without a port
	// (by default that of Bind). Names are resolved anew at each attempt, and
	// all their addresses are tried.
	Join []string
	// RejoinEvery is how often members that are not there are tried again: 10 s
	// by default.
	RejoinEvery time.Duration

	// Label is the name of the cluster. Whatever carries another is discarded.
	Label string
	// Keys encrypt all traffic with AES: 16, 24 or 32 bytes each. The first one
	// encrypts, all of them decrypt.
	Keys [][]byte
	// AllowPlaintext permits a member without keys to bind to an address that
	// other machines reach. Anybody there can then forge records, and so make
	// nodes miss invalidations.
	AllowPlaintext bool

	// RPCAddress, Version, Capabilities and Bound are told to the others.
	RPCAddress   string
	Version      string
	Capabilities uint64
	// Bound is the bound B of this node.
	Bound time.Duration

	// Logger is slog's default unless given.
	Logger *slog.Logger
	// Resolver is Go's own unless given.
	Resolver Resolver
	// Timing is that of a local network unless given.
	Timing Timing

	// wrap is put around the network, for tests that break it.
	wrap func(memberlist.NodeAwareTransport) memberlist.NodeAwareTransport
	// direct is from how many members on records spread by way of others.
	direct int
	// meddle changes what memberlist is created with, for benchmarks of it.
	meddle func(*memberlist.Config)
}

// Timing is how fast failures of members are noticed. Zero fields are those of
// a local network.
type Timing struct {
	// ProbeInterval is how often one of the members is asked whether it lives:
	// 1 s. ProbeTimeout is how long it may take to answer: 500 ms.
	ProbeInterval, ProbeTimeout time.Duration
	// Suspicion is for how many probe intervals a member that does not answer
	// is suspected before it is called dead: at least 4.
	Suspicion int
	// GossipInterval is how often changes of membership are passed on: 200 ms.
	GossipInterval time.Duration
	// PushPull is how often one of the others is compared with: 30 s.
	PushPull time.Duration
	// GossipToTheDead is for how long a dead member is still told so that it can
	// object: 30 s.
	GossipToTheDead time.Duration
	// Stream is how long connecting, and an exchange over a connection, may
	// take: 3 s.
	Stream time.Duration
	// Leave is how long leaving may take at most: 5 s.
	Leave time.Duration
}

// Validate says what is wrong with a configuration.
func (c Config) Validate() error {
	return errors.Join(c.validateName(), c.validateAddresses(), c.validateKeys(), c.validateMeta())
}

func (c Config) validateName() error {
	switch {
	case c.Name == "":
		return errors.New("gossip: a member needs a name")
	case len(c.Name) > 255:
		return fmt.Errorf("gossip: the name of a member has at most 255 bytes, not %d", len(c.Name))
	case len(c.Label) > memberlist.LabelMaxSize:
		return fmt.Errorf("gossip: the name of a cluster has at most %d bytes, not %d", memberlist.LabelMaxSize, len(c.Label))
	case c.RejoinEvery < 0:
		return fmt.Errorf("gossip: members cannot be tried again every %v", c.RejoinEvery)
	}
	return nil
}

func (c Config) validateAddresses() error {
	addr, err := bindAddress(c.Bind)
	if err != nil {
		return err
	}
	if addr.Addr() == netip.IPv6Unspecified() && c.Advertise == "" {
		return fmt.Errorf("gossip: %s is all addresses: which of them others shall use must be given", c.Bind)
	}
	if !addr.Addr().IsLoopback() && len(c.Keys) == 0 && !c.AllowPlaintext {
		return fmt.Errorf("gossip: a key is required on %s, which other machines may reach: without one, "+
			"anybody there can forge what nodes tell each other", c.Bind)
	}
	if c.Advertise != "" {
		if _, _, err := splitHostPort(c.Advertise, 0); err != nil {
			return err
		}
	}
	for _, address := range c.Join {
		if _, _, err := splitHostPort(address, 0); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) validateKeys() error {
	for i, key := range c.Keys {
		if err := memberlist.ValidateKey(key); err != nil {
			return fmt.Errorf("gossip: key %d has %d bytes, not 16, 24 or 32", i+1, len(key))
		}
	}
	return nil
}

func (c Config) validateMeta() error {
	if len(c.RPCAddress) > 255 {
		return fmt.Errorf("gossip: the RPC address has at most 255 bytes, not %d", len(c.RPCAddress))
	}
	if c.Bound < 0 || c.Bound > maxBound {
		return fmt.Errorf("gossip: the bound cannot be %v: at most %v", c.Bound, maxBound)
	}
	if !printable(c.Name) || !printable(c.RPCAddress) || !printable(c.Version) {
		return errors.New("gossip: name, RPC address and version must be text that can be shown")
	}
	return nil
}

// bindAddress reads Bind. Names are not resolved: memberlist takes what is no
// address for all addresses.
func bindAddress(bind string) (netip.AddrPort, error) {
	host, port, err := splitHostPort(bind, DefaultPort)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch host {
	case "":
		return netip.AddrPortFrom(netip.IPv4Unspecified(), port), nil
	case "localhost":
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip: %q is no IP address to listen on", host)
	}
	return netip.AddrPortFrom(addr.Unmap(), port), nil
}

// splitHostPort splits an address that may do without a port, and without
// brackets if it has none.
func splitHostPort(address string, otherwise uint16) (string, uint16, error) {
	if addr, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
		return addr.String(), otherwise, nil
	}
	if !strings.Contains(address, ":") {
		if address == "" {
			return "", 0, errors.New("gossip: an address is empty")
		}
		return address, otherwise, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("gossip: %q is no address: %w", address, err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("gossip: %q has no such port", address)
	}
	return host, uint16(number), nil
}

// withDefaults fills in what was left zero.
func (c Config) withDefaults() Config {
	if c.RejoinEvery == 0 {
		c.RejoinEvery = 10 * time.Second
	}
	if c.Label == "" {
		c.Label = DefaultLabel
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	c.Timing = c.Timing.withDefaults()
	return c
}

func (t Timing) withDefaults() Timing {
	return Timing{
		ProbeInterval:   orElse(t.ProbeInterval, time.Second),
		ProbeTimeout:    orElse(t.ProbeTimeout, 500*time.Millisecond),
		Suspicion:       orElse(t.Suspicion, 4),
		GossipInterval:  orElse(t.GossipInterval, 200*time.Millisecond),
		PushPull:        orElse(t.PushPull, 30*time.Second),
		GossipToTheDead: orElse(t.GossipToTheDead, 30*time.Second),
		Stream:          orElse(t.Stream, 3*time.Second),
		Leave:           orElse(t.Leave, 5*time.Second),
	}
}

func orElse[T comparable](given, otherwise T) T {
	var zero T
	if given == zero {
		return otherwise
	}
	return given
}
