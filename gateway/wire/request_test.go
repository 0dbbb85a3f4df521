package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

var requests = []string{
	"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /a?b=c HTTP/1.1\r\nHost: x:80\r\nContent-Length: 3\r\nX-A:  b c \r\n\r\nabc",
	"POST /a HTTP/1.1\r\nhost: x\r\nTRANSFER-ENCODING: Chunked\r\nConnection: a, Close\r\n\r\n3;e=1\r\nabc\r\n0\r\nT: v\r\nContent-Length: 9\r\n\r\n",
	"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
	"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET /\x80 HTTP/1.1\r\nHost: x\r\nX: \xff\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, upgrade\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nA: 1\n\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n A: 1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nA : 1\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775808\r\n\r\n",
}

// FuzzRequest: a head that we take net/http takes too, and it means the same
// to both; so does the body.
func FuzzRequest(f *testing.F) {
	for _, r := range requests {
		f.Add([]byte(r))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, ok := HeadEnd(raw, 0)
		if !ok {
			return
		}
		var r Request
		if ParseRequest(raw[:n], &r).Status != 0 {
			return
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			// net/http parses the target too; here that is for the router.
			if strings.Contains(err.Error(), "parse ") {
				return
			}
			t.Fatalf("%q: net/http refuses: %v", raw, err)
		}
		if want.Method != string(r.Method) || want.RequestURI != string(r.Target) || want.ProtoMinor != r.Minor || want.ContentLength != r.Length {
			t.Fatalf("%q: %q %q %d %d; net/http has %q %q %d %d", raw, r.Method, r.Target, r.Minor, r.Length, want.Method, want.RequestURI, want.ProtoMinor, want.ContentLength)
		}
		if r.Target[0] == '/' && want.Host != string(r.Host) {
			t.Fatalf("%q: host %q; net/http has %q", raw, r.Host, want.Host)
		}
		if r.Minor == 1 && want.Close != r.Close {
			t.Fatalf("%q: close %v; net/http has %v", raw, r.Close, want.Close)
		}
		got := http.Header{}
		for _, f := range r.Fields {
			got.Add(string(f.Name), string(f.Value))
		}
		for k, vs := range want.Header {
			if k == "Cache-Control" && want.Header.Get("Pragma") != "" {
				continue // net/http makes one up
			}
			if strings.Join(vs, "\x00") != strings.Join(got[k], "\x00") {
				t.Fatalf("%q: %s is %q; net/http has %q", raw, k, got[k], vs)
			}
		}
		var y Body
		b := NewBuffer(bytes.NewReader(raw[n:]))
		y.Reset(b, r.Length)
		body, err := io.ReadAll(&y)
		wantBody, wantErr := io.ReadAll(want.Body)
		if err != nil {
			if !bytes.HasPrefix(wantBody, body) && !bytes.HasPrefix(body, wantBody) {
				t.Fatalf("%q: body %q (%v); net/http has %q", raw, body, err, wantBody)
			}
			return
		}
		if wantErr != nil || !bytes.Equal(body, wantBody) {
			t.Fatalf("%q: body %q; net/http has %q, %v", raw, body, wantBody, wantErr)
		}
		for _, f := range y.Trailers(nil) {
			if vs := want.Trailer[http.CanonicalHeaderKey(string(f.Name))]; len(vs) == 0 {
				t.Fatalf("%q: trailer %q; net/http has %v", raw, f.Name, want.Trailer)
			}
		}
	})
}

func TestParseRequest(t *testing.T) {
	var r Request
	for i, want := range []int{0, 0, 0, 400, 0, 400, 0, 0, 0, 0, 400, 400, 400, 400} {
		n, ok := HeadEnd([]byte(requests[i]), 0)
		if !ok {
			n = len(requests[i])
		}
		if v := ParseRequest([]byte(requests[i])[:n], &r); v.Status != want {
			t.Errorf("%q: %+v, want %d", requests[i], v, want)
		}
	}
	if v := ParseRequest([]byte(requests[2][:strings.Index(requests[2], "3;e")]), &r); v.Status != 0 || r.Length != Chunked || !r.Close || string(r.Host) != "x" || len(r.Fields) != 2 {
		t.Errorf("%+v %+v", v, r)
	}
}

// TestTrailers: what would change what was said before does not get through.
func TestTrailers(t *testing.T) {
	in := "3\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nhost: evil\r\nX-Forwarded-For: me\r\nAuthorization: x\r\nX-Call-ID: x\r\nLast: y\r\n\r\nGET"
	var y Body
	b := NewBuffer(strings.NewReader(in))
	y.Reset(b, Chunked)
	body, err := io.ReadAll(&y)
	if err != nil || string(body) != "abc" {
		t.Fatalf("%q %v", body, err)
	}
	ts := y.Trailers(nil)
	if len(ts) != 2 || !ts[0].Is("x-sum") || string(ts[0].Value) != "1" || !ts[1].Is("last") {
		t.Errorf("trailers %q", ts)
	}
	if string(b.Bytes()) != "GET" {
		t.Errorf("left %q", b.Bytes())
	}
}

// TestChunksInPieces: what a body is does not go by how it is cut, nor by the
// size of the reads.
func TestChunksInPieces(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	in := "3\r\nabc\r\n2710\r\n" + long + "\r\n1;x\r\nd\r\n0\r\nT: 1\r\n\r\nrest"
	for cut := 1; cut < 40; cut++ {
		for _, size := range []int{1, 7, 512, BufferSize, 32 << 10} {
			var y Body
			b := NewBuffer(&pieces{in, cut})
			y.Reset(b, Chunked)
			var got []byte
			p := make([]byte, size)
			for {
				n, err := y.Read(p)
				got = append(got, p[:n]...)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("cut %d, reads of %d: %v", cut, size, err)
				}
			}
			if string(got) != "abc"+long+"d" || !y.Ended() || len(y.Trailers(nil)) != 1 {
				t.Fatalf("cut %d, reads of %d: %d bytes, ended %v", cut, size, len(got), y.Ended())
			}
			rest, _ := io.ReadAll(b)
			if string(rest) != "rest" {
				t.Fatalf("cut %d, reads of %d: left %q", cut, size, rest)
			}
		}
	}
}

type pieces struct {
	s string
	n int
}

func (r *pieces) Read(p []byte) (int, error) {
	if r.s == "" {
		return 0, io.EOF
	}
	n := copy(p, r.s[:min(r.n, len(r.s))])
	r.s = r.s[n:]
	return n, nil
}
