// Package skew says which versions of the platform's parts work together, so that
// a cluster can be upgraded one machine at a time: servers first, then nodes, one
// minor version at a time.
//
//   - Servers may be one minor version apart, in either direction.
//   - A node may be as its server is or one minor version older, never newer.
//
// Every request and answer between machines says what sent it, in a header. Fields
// that a part does not know are passed over, so the next version may have more.
package skew

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
)

// Headers that say the release of a server, and of a node.
const (
	Server = "Podsnap-Server-Version"
	Node   = "Podsnap-Node-Version"
)

// Source is the version of this tree: what a build is that has no release of its
// own, such as one that is named by a commit.
const Source = "0.1"

// Version is what counts of a release.
type Version struct{ Major, Minor int }

var form = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})(?:[.+-].*)?$`)

// Parse reads a release such as v1.4.2 or 1.4.0-rc1. What has no such form is of
// Source.
func Parse(release string) Version {
	m := form.FindStringSubmatch(release)
	if m == nil {
		m = form.FindStringSubmatch(Source)
	}
	major, _ := strconv.Atoi(m[1]) // digits
	minor, _ := strconv.Atoi(m[2])
	return Version{major, minor}
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Servers tells why two servers of these releases do not work together; nil if they
// do.
func Servers(self, other string) error {
	a, b := Parse(self), Parse(other)
	if a.Major == b.Major && a.Minor-b.Minor <= 1 && b.Minor-a.Minor <= 1 {
		return nil
	}
	return fmt.Errorf("a server of version %s (%s) and one of version %s (%s) do not work together: servers may be one minor version apart, so upgrade by one at a time", a, self, b, other)
}

// Nodes tells why a node of a release does not work with a server's; nil if it does.
func Nodes(server, node string) error {
	s, n := Parse(server), Parse(node)
	switch {
	case s.Major == n.Major && (n.Minor == s.Minor || n.Minor == s.Minor-1):
		return nil
	case n.Major > s.Major || n.Major == s.Major && n.Minor > s.Minor:
		return fmt.Errorf("the node's version %s (%s) is newer than the server's %s (%s): upgrade the servers first, then the nodes", n, node, s, server)
	}
	return fmt.Errorf("the node's version %s (%s) is too old for the server's %s (%s): a node may be one minor version older, so upgrade the node, by one version at a time", n, node, s, server)
}

// ToServer tells why a server does not serve a request; nil if it does. What says
// no version is no part of the platform.
func ToServer(self string, asked http.Header) error {
	if v := asked.Get(Server); v != "" {
		if err := Servers(self, v); err != nil {
			return err
		}
	}
	if v := asked.Get(Node); v != "" {
		return Nodes(self, v)
	}
	return nil
}

// ToNode is ToServer for a node that a server asks.
func ToNode(self string, asked http.Header) error {
	if v := asked.Get(Server); v != "" {
		return Nodes(v, self)
	}
	return nil
}

// Say makes every request say a release in a header.
func Say(header, release string, next http.RoundTripper) http.RoundTripper {
	return saying{header, release, next}
}

type saying struct {
	header, release string
	next            http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s saying) RoundTrip(r *http.Request) (*http.Response, error) {
	out := *r // a transport must not change what it is given
	out.Header = r.Header.Clone()
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.Header.Set(s.header, s.release)
	return s.next.RoundTrip(&out)
}

// CloseIdleConnections is what http.Client's calls.
func (s saying) CloseIdleConnections() {
	if c, ok := s.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
