package invoke

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/gateway/wire"
	"github.com/podsnap/podsnap/internal/openfaas"
)

// maxCallID bounds a caller's own call id; a longer one is replaced.
const maxCallID = 256

// names are the names of fields that are added, as bytes.
var names = struct {
	id, start, duration, internal, retryAfter, contentType, noSniff, allow, forHost, forFor, forProto, connection, upgrade, trailer []byte
}{
	[]byte(openfaas.HeaderCallID), []byte(openfaas.HeaderStartTime), []byte(openfaas.HeaderDuration), []byte(openfaas.HeaderInternal),
	[]byte("Retry-After"), []byte("Content-Type"), []byte("X-Content-Type-Options"), []byte("Allow"),
	[]byte("X-Forwarded-Host"), []byte("X-Forwarded-For"), []byte("X-Forwarded-Proto"), []byte("Connection"), []byte("Upgrade"), []byte("Trailer"),
}

var protoHTTP, protoHTTPS = []byte("http"), []byte("https")

// identify gives the request its call id and start time.
func (c *call) identify() {
	c.id = wire.Get(c.q.Fields, openfaas.HeaderCallID)
	if len(c.id) == 0 || len(c.id) > maxCallID {
		c.id = c.newID(c.idBuf[:0])
	}
	c.start = strconv.AppendInt(c.startBuf[:0], c.began.UnixNano(), 10)
}

// newID writes a random UUID into b, which has room for it.
func (c *call) newID(b []byte) []byte {
	u := &c.random
	_, _ = rand.Read(u[:]) // it never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	from := 0
	for i, n := range [...]int{4, 2, 2, 2, 6} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, u[from:from+n])
		from += n
	}
	return b
}

// hop is the fields that are about one connection only, those that frame the
// body included.
func hop(name []byte) bool {
	is := func(s string) bool { return wire.Equal(name, s) }
	switch len(name) {
	case 2:
		return is("Te")
	case 7:
		return is("Trailer") || is("Upgrade")
	case 10:
		return is("Connection") || is("Keep-Alive")
	case 14:
		return is("Content-Length") || is("Http2-Settings")
	case 16:
		return is("Proxy-Connection")
	case 17:
		return is("Transfer-Encoding")
	case 18:
		return is("Proxy-Authenticate")
	case 19:
		return is("Proxy-Authorization")
	}
	return false
}

// listed reports whether a field is named in Connection, and may be: a client
// must not remove what says who it is, or how its body is to be read.
func listed(all []wire.Field, name []byte) bool {
	if begins(name, "X-") || begins(name, "Content-") {
		return false
	}
	for _, kept := range []string{"Authorization", "Cookie", "Forwarded", "Host"} {
		if wire.Equal(name, kept) {
			return false
		}
	}
	for _, f := range all {
		if f.Is("Connection") && wire.Lists(f.Value, string(name)) {
			return true
		}
	}
	return false
}

func begins(name []byte, prefix string) bool {
	return len(name) >= len(prefix) && wire.Equal(name[:len(prefix)], prefix)
}

// forwarded is what goes on to the function.
func (c *call) forwarded(fs []wire.Field) []wire.Field {
	host, forwardedFor, proto := false, false, false
	for _, f := range c.q.Fields {
		switch n := f.Name; {
		case hop(n):
			if c.q.Length != wire.Chunked || !f.Is("Trailer") {
				continue
			}
		case bytes.IndexByte(n, '_') >= 0: // it may be read as the one with a dash
			continue
		case len(n) == 6 && f.Is("Expect"):
			continue
		case c.q.Connection && listed(c.q.Fields, n):
			continue
		case len(n) < 9 || n[0]|0x20 != 'x':
		case f.Is(openfaas.HeaderCallID), f.Is(openfaas.HeaderStartTime):
			continue
		case f.Is("X-Forwarded-Host"):
			host = true
		case f.Is("X-Forwarded-For"):
			forwardedFor = true
		case f.Is("X-Forwarded-Proto"):
			proto = true
		}
		fs = append(fs, f)
	}
	fs = append(fs, wire.Field{Name: names.id, Value: c.id}, wire.Field{Name: names.start, Value: c.start})
	if !host && len(c.q.Host) > 0 {
		fs = append(fs, wire.Field{Name: names.forHost, Value: c.q.Host})
	}
	if !forwardedFor && len(c.q.Remote) > 0 {
		fs = append(fs, wire.Field{Name: names.forFor, Value: c.q.Remote})
	}
	if !proto {
		value := protoHTTP
		if c.q.TLS != nil {
			value = protoHTTPS
		}
		fs = append(fs, wire.Field{Name: names.forProto, Value: value})
	}
	if c.upgrade {
		fs = append(fs, wire.Field{Name: names.connection, Value: names.upgrade}, wire.Field{Name: names.upgrade, Value: []byte("websocket")})
	}
	return fs
}

// answered is what of the function's fields goes into the answer, after those
// that every answer has.
func (c *call) answered(fs []wire.Field, from []wire.Field, chunked bool) []wire.Field {
	connection := wire.Has(from, "Connection")
	duration := false
	for _, f := range from {
		switch n := f.Name; {
		case hop(n):
			if !chunked || !f.Is("Trailer") {
				continue
			}
		case connection && listed(from, n):
			continue
		case len(n) < 9 || n[0]|0x20 != 'x':
		case f.Is(openfaas.HeaderCallID), f.Is(openfaas.HeaderStartTime):
			continue // the caller's stand
		case f.Is(openfaas.HeaderDuration):
			duration = true
		}
		fs = append(fs, f)
	}
	if !duration {
		fs = append(fs, c.duration(c.first))
	}
	if c.slot.cold || c.thawing > 0 {
		fs = append(fs, c.timing())
	}
	return fs
}

// own are the fields that every answer has.
func (c *call) own(fs []wire.Field) []wire.Field {
	return append(fs, wire.Field{Name: names.id, Value: c.id}, wire.Field{Name: names.start, Value: c.start})
}

// duration tells how long it took until the answer began.
func (c *call) duration(now time.Time) wire.Field {
	b := strconv.AppendFloat(c.durationBuf[:0], now.Sub(c.began).Seconds(), 'f', 6, 64)
	return wire.Field{Name: names.duration, Value: b}
}
