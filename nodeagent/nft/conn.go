// Package nft is a lasting connection to the kernel's nftables, which tells
// whether anybody else has changed the rule set.
package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is the connection. It is for one goroutine. Its socket stays in the network
// namespace in which it was opened.
type Conn struct {
	*nftables.Conn
	Answer time.Duration // that the kernel may take; Open makes it AnswerTime

	sock *mdlayher.Conn // below the other

	// seen is the generation of the kernel's whole rule set as of the last time
	// that all was known to be right, and own how many changes were this
	// connection's since: when they add up, nobody else has touched anything.
	seen, own uint32
}

const (
	// AnswerTime is how long the kernel may work while we wait.
	AnswerTime = 10 * time.Second

	sockBuffer = 8 << 20
)

// Open makes a connection from the calling thread's network namespace.
func Open() (*Conn, error) {
	c := &Conn{Answer: AnswerTime}
	var err error
	c.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(s *mdlayher.Conn) error {
		c.sock = s
		return errors.Join(s.SetReadBuffer(sockBuffer), s.SetWriteBuffer(sockBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() { _ = c.CloseLasting() }

// Commit sends what is queued as one transaction.
func (c *Conn) Commit() error {
	if err := c.Within(c.Flush); err != nil {
		return err
	}
	c.own++
	return nil
}

// Within gives the kernel Answer for what f asks it. A deadline that stayed would
// be what the next question, minutes later, meets.
func (c *Conn) Within(f func() error) error {
	if err := c.sock.SetDeadline(time.Now().Add(c.Answer)); err != nil {
		return err
	}
	return errors.Join(f(), c.sock.SetDeadline(time.Time{}))
}

// Trust notes that the rule set is right as it is now.
func (c *Conn) Trust() error {
	g, err := c.generation()
	c.TrustAt(g)
	return err
}

// TrustAt notes that the rule set was right at a generation, which Touched has
// told, and that nothing was committed here since.
func (c *Conn) TrustAt(generation uint32) { c.seen, c.own = generation, 0 }

// Touched tells whether anybody else has changed the rule set since it was
// trusted, and its generation now.
func (c *Conn) Touched() (generation uint32, touched bool, err error) {
	g, err := c.generation()
	return g, err == nil && g != c.seen+c.own, err
}

// generation is that of the whole rule set: each transaction of anybody makes it
// one more.
func (c *Conn) generation() (uint32, error) {
	var id uint32
	err := c.Within(func() error {
		answers, err := c.sock.Execute(mdlayher.Message{
			Header: mdlayher.Header{Type: mdlayher.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN), Flags: mdlayher.Request},
			Data:   []byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0},
		})
		for _, a := range answers {
			const header = 4 // struct nfgenmsg
			d, err := mdlayher.NewAttributeDecoder(a.Data[min(len(a.Data), header):])
			if err != nil {
				return err
			}
			d.ByteOrder = binary.BigEndian
			for d.Next() {
				if d.Type() == unix.NFTA_GEN_ID {
					id = d.Uint32()
				}
			}
			if err := d.Err(); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the rule set's generation: %w", err)
	}
	return id, nil
}
