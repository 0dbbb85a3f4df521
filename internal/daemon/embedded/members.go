package embedded

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// record is whose data a folder holds: members.json in it.
type record struct {
	Self    string
	Members []string // with which it was begun
	Now     []string `json:",omitempty"` // who they are now; none: the same
	Joined  bool     `json:",omitempty"` // Self has come to a cluster that was there
	NATS    string   `json:",omitempty"` // what Self's NATS is called; "": by its address
}

func (r *record) now() []string {
	if len(r.Now) > 0 {
		return r.Now
	}
	return r.Members
}

func (r *record) natsName() string {
	if r.Self == "" {
		return ""
	}
	return cmp.Or(r.NATS, NATSName(r.Self))
}

func recordPath(dir string) string { return filepath.Join(dir, "members.json") }

// readRecord reads what dir says of itself; nothing where no members have begun.
func readRecord(dir string) (r record, there bool, err error) {
	b, err := os.ReadFile(recordPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil && len(b) > 0 {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, false, fmt.Errorf("whose data %s holds: %s: %w", dir, recordPath(dir), err)
	}
	return r, true, nil
}

func (r *record) write(dir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := recordPath(dir)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Known is what a folder knows of its cluster.
type Known struct {
	Members []string // addresses; none: the data is one server's, or there is none
	NATS    string   // what this member's NATS is called
	Data    bool     // etcd has begun there
}

// Look tells what the folder of a server's stores knows of their cluster.
func Look(dir string) (Known, error) {
	r, _, err := readRecord(dir)
	if err != nil {
		return Known{}, err
	}
	k := Known{Members: r.now(), NATS: r.natsName()}
	switch _, err := os.Stat(filepath.Join(dir, "etcd")); {
	case err == nil:
		k.Data = true
	case !errors.Is(err, fs.ErrNotExist):
		return Known{}, err
	}
	return k, nil
}

// Remember keeps who the members of dir's cluster are now, for NATS, which asks at
// each connection, and for the next start.
func Remember(dir string, members []string) error {
	r, there, err := readRecord(dir)
	if err != nil || !there {
		return err
	}
	next := slices.Sorted(slices.Values(members))
	if slices.Equal(next, slices.Sorted(slices.Values(r.now()))) {
		return nil
	}
	r.Now = next
	return r.write(dir)
}

// claim lets the data in dir be used by the members that it was begun with or has
// now, and by nobody else, and tells c who they are. One server's data can't become
// that of several by starting it: NATS would take its streams for forgotten ones and
// remove them, and etcd would go on alone beside the others.
func claim(dir string, c *Cluster) error {
	old, begun, err := readRecord(dir)
	if err != nil {
		return err
	}
	if !begun {
		if begun, err = begunAlone(dir); err != nil {
			return fmt.Errorf("whose data %s holds: %w", dir, err)
		}
	}
	var now record
	if c != nil {
		c.dir = dir
		now.Self, now.Members = c.Self, slices.Sorted(slices.Values(c.Members))
	}
	same := slices.Equal(old.Members, now.Members) || slices.Equal(old.Now, now.Members)
	switch {
	case begun && c != nil && c.Joining && old.Joined && old.Self == c.Self:
		return c.joins(dir, old)
	case begun && old.Self == now.Self && same:
		if c != nil {
			c.Members, c.Joining, c.name = old.now(), old.Joined, old.natsName()
		}
		return nil
	case begun && old.Self == "":
		return fmt.Errorf("the data in %s is one server's alone and can't become a cluster's: start without the others, or with an empty folder", dir)
	case begun:
		return fmt.Errorf("the data in %s is that of %s, a member of %s: start with these, or with an empty folder", dir, old.Self, strings.Join(old.now(), ", "))
	case c == nil:
		return nil
	case c.Joining:
		return c.joins(dir, old)
	}
	c.name = now.natsName()
	return now.write(dir)
}

// joins notes that a member comes to a cluster that is there.
func (c *Cluster) joins(dir string, old record) error {
	r := record{Self: c.Self, Members: slices.Sorted(slices.Values(c.Members)), Joined: true, NATS: cmp.Or(old.NATS, c.NATSName)}
	c.name = r.natsName()
	return r.write(dir)
}

// NewNATSName is for a member that comes later: NATS takes nobody back soon under a
// name that it has removed, so each is called as none was.
func NewNATSName(member string) string {
	return NATSName(member) + "-" + strings.ToLower(rand.Text()[:6])
}

func begunAlone(dir string) (bool, error) {
	for _, d := range []string{"etcd", "nats"} {
		if _, err := os.Stat(filepath.Join(dir, d)); !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	return false, nil
}
