package wire

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"testing"
)

func TestParseResponse(t *testing.T) {
	for _, tt := range []struct {
		head   string
		err    error
		length int64
		close  bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", nil, 5, false},
		{"HTTP/1.1 200\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n", nil, 5, false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", nil, Chunked, false},
		{"HTTP/1.1 200 OK\r\nConnection: x, close\r\n\r\n", nil, TillEnd, true},
		{"HTTP/1.0 200 OK\r\n\r\n", nil, TillEnd, true},
		{"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", nil, 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", ErrFraming, 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", ErrFraming, 0, false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", ErrFraming, 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", ErrFraming, 0, false},
		{"HTTP/2.0 200 OK\r\n\r\n", ErrStatusLine, 0, false},
		{"HTTP/1.1 20 OK\r\n\r\n", ErrStatusLine, 0, false},
		{"HTTP/1.1 2000 OK\r\n\r\n", ErrStatusLine, 0, false},
		{"HTTP/1.1 099 OK\r\n\r\n", ErrStatusLine, 0, false},
		{"HTTP/1.1 200 OK\rX: y\r\n\r\n", ErrStatusLine, 0, false},
		{"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n", ErrFields, 0, false},
		{"HTTP/1.1 200 OK\r\nX y\r\n\r\n", ErrFields, 0, false},
		{"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", ErrFields, 0, false},
	} {
		var r Response
		if err := ParseResponse([]byte(tt.head), &r); !errors.Is(err, tt.err) || err == nil && (r.Length != tt.length || r.Close != tt.close) {
			t.Errorf("%q: %v %+v", tt.head, err, r)
		}
	}
}

// FuzzResponse: a head that we take means to net/http what it means to us.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX:  y \r\n\r\n", "HTTP/1.0 404\r\nConnection: keep-alive\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, ok := HeadEnd(raw, 0)
		var r Response
		if !ok || ParseResponse(raw[:n], &r) != nil || NoBody([]byte("GET"), r.Status) {
			return
		}
		want, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
		if err != nil {
			t.Fatalf("%q: net/http refuses: %v", raw, err)
		}
		if want.StatusCode != r.Status || want.ContentLength != max(r.Length, -1) {
			t.Fatalf("%q: %d, %d bytes; net/http has %d, %d", raw, r.Status, r.Length, want.StatusCode, want.ContentLength)
		}
		for _, f := range r.Fields {
			vs := want.Header[http.CanonicalHeaderKey(string(f.Name))]
			if len(vs) == 0 && !f.Is("Transfer-Encoding") && !f.Is("Connection") && !f.Is("Trailer") && !f.Is("Content-Length") {
				t.Fatalf("%q: field %q; net/http has %v", raw, f.Name, want.Header)
			}
		}
	})
}
