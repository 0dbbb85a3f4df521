// Package peers is about the servers of a NATS cluster: which of them have the
// queue's calls, and which are its members no more.
package peers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Peers is the way to a cluster by one of its servers. It connects when it is used.
type Peers struct {
	URL   string // of the server, with the token of its clients
	Admin string // token of who may change members
}

// Stream is how many copies of something there are to be, and which servers have one
// that is whole: of what is stored, and of how far each of its readers has come.
type Stream struct {
	Name string
	Want int
	On   []string // names of servers
}

// Streams tells of all that is stored.
func (p Peers) Streams(ctx context.Context) ([]Stream, error) {
	nc, err := connect(p.URL)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	var out []Stream
	all := js.ListStreams(ctx)
	for info := range all.Info() {
		s := Stream{Name: info.Config.Name, Want: max(info.Config.Replicas, 1)}
		if c := info.Cluster; c != nil {
			s.On = append(s.On, c.Leader)
			for _, r := range c.Replicas {
				if r.Current && !r.Offline {
					s.On = append(s.On, r.Name)
				}
			}
		}
		if err := s.read(ctx, js, info.State.Consumers); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list NATS' streams: %w", err)
	}
	return out, nil
}

// read leaves the servers that have each of the stream's readers, too, of which there
// are so many: a reader's copies move by themselves, after those of the stream, and
// one without most of its copies reads no more.
func (s *Stream) read(ctx context.Context, js jetstream.JetStream, readers int) error {
	if readers == 0 || len(s.On) == 0 {
		return nil
	}
	stream, err := js.Stream(ctx, s.Name)
	if err != nil {
		return fmt.Errorf("NATS' stream %s: %w", s.Name, err)
	}
	told := 0
	all := stream.ListConsumers(ctx)
	for c := range all.Info() {
		told++
		if c.Cluster == nil || c.Config.Durable == "" {
			continue // a single server's, or somebody's who looks on for a while
		}
		s.On = slices.DeleteFunc(s.On, func(server string) bool { return !has(c.Cluster, server) })
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("list the consumers of NATS' stream %s: %w", s.Name, err)
	}
	if told < readers { // one has nobody who could tell of it
		s.On = nil
	}
	return nil
}

// has is whether a server has a copy that is whole.
func has(c *jetstream.ClusterInfo, server string) bool {
	return c.Leader == server || slices.ContainsFunc(c.Replicas, func(r *jetstream.PeerInfo) bool {
		return r.Name == server && r.Current && !r.Offline
	})
}

// again is how long is waited after an answer that NATS has no leader, or is at it.
const again = 250 * time.Millisecond

// Remove takes a server out of the cluster for good: its copies are made elsewhere,
// as soon as there is room. One that is no member is none after it as well. While
// NATS has no leader it is tried again, until ctx is done.
func (p Peers) Remove(ctx context.Context, server string) error {
	bare, err := url.Parse(p.URL)
	if err != nil {
		return err
	}
	bare.User = nil
	nc, err := connect(bare.String(), nats.Token(p.Admin))
	if err != nil {
		return err
	}
	defer nc.Close()
	ask, err := json.Marshal(map[string]string{"peer": server, "peer_id": ID(server)})
	if err != nil {
		return err
	}
	for {
		err := remove(ctx, nc, ask)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("take %s out of NATS' cluster: %w", server, err)
		case <-time.After(again):
		}
	}
}

// notMember is JetStream's code for a server that is not there.
const notMember = 10044

func remove(ctx context.Context, nc *nats.Conn, ask []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$JS.API.SERVER.REMOVE", ask)
	if err != nil {
		return err
	}
	var a struct {
		Success bool
		Error   *jetstream.APIError
	}
	switch err := json.Unmarshal(m.Data, &a); {
	case err != nil:
		return fmt.Errorf("NATS' answer: %w", err)
	case a.Error != nil && a.Error.ErrorCode == notMember:
		return nil
	case a.Error != nil:
		return a.Error
	case !a.Success:
		return errors.New("NATS says neither that it is done nor why it is not")
	}
	return nil
}

// ID is what NATS calls a server among the members: it may have forgotten the name of
// one that is away.
func ID(server string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(server))
	id := make([]byte, 8)
	for i := range id {
		id[i] = digits[int(sum[i])%len(digits)]
	}
	return string(id)
}

func connect(url string, o ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(url, append(o, nats.Timeout(5*time.Second), nats.NoReconnect())...)
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	return nc, nil
}
