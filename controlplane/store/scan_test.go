package store

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// older is an etcd before 3.7, which has no streams.
type older struct{ clientv3.KV }

func (older) GetStream(context.Context, string, ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	out := make(chan clientv3.RangeStreamResponse)
	close(out)
	return out, status.Error(codes.Unimplemented, "unknown method RangeStream")
}

// putKeys makes so many hundreds of keys below /a/ and answers with them in order.
func putKeys(t testing.TB, cli *clientv3.Client, n int) (out []string) {
	t.Helper()
	for at := 0; at < n; at += 100 {
		var ops []clientv3.Op
		for i := at; i < at+100; i++ {
			out = append(out, fmt.Sprintf("/a/%06d", i))
			ops = append(ops, clientv3.OpPut(out[i], "x"))
		}
		if _, err := cli.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// BenchmarkScan reads as many keys as 17,000 functions have, in both ways: the time
// of pages grows with the square of their number.
func BenchmarkScan(b *testing.B) {
	const keys = 100_000
	cli := startEtcd(b).client()
	putKeys(b, cli, keys)
	for name, kv := range map[string]clientv3.KV{"stream": cli.KV, "pages": older{cli.KV}} {
		b.Run(name, func(b *testing.B) {
			s, err := New(Config{Client: &clientv3.Client{KV: kv}})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				n := 0
				if err := s.scan(b.Context(), "/a/", "/a0", 0, func(kvs []*mvccpb.KeyValue) { n += len(kvs) }); err != nil || n != keys {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// A scan has all of a range as of a revision, in order, whatever etcd it is.
func TestScan(t *testing.T) {
	e := startEtcd(t)
	const keys = 2*page + 500
	cli := e.client()
	want := putKeys(t, cli, keys)
	last, err := cli.Put(t.Context(), "/b", "not of the range")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Put(t.Context(), "/a/later", "x"); err != nil {
		t.Fatal(err)
	}
	for name, kv := range map[string]clientv3.KV{"stream": cli.KV, "pages": older{cli.KV}} {
		s, err := New(Config{Client: &clientv3.Client{KV: kv}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		parts := 0
		err = s.scan(t.Context(), "/a/", "/a0", last.Header.Revision, func(kvs []*mvccpb.KeyValue) {
			parts++
			for _, kv := range kvs {
				got = append(got, string(kv.Key))
			}
		})
		if err != nil || !slices.Equal(got, want) || parts < 2 {
			t.Errorf("%s: %d keys in %d parts, %v; want %d in several", name, len(got), parts, err, keys)
		}
		if err := s.scan(t.Context(), "/c/", "/c0", last.Header.Revision, func([]*mvccpb.KeyValue) { t.Error("there is a key") }); err != nil {
			t.Errorf("%s: a range without keys: %v", name, err)
		}
		if err := s.scan(t.Context(), "/a/", "/a0", last.Header.Revision+100, func([]*mvccpb.KeyValue) {}); err == nil {
			t.Errorf("%s: a revision that has not come was read", name)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.scan(ctx, "/a/", "/a0", last.Header.Revision, func([]*mvccpb.KeyValue) {}); err == nil {
			t.Errorf("%s: a scan that nobody waits for went on", name)
		}
	}
}

// streams says what a stream of etcd has.
type streams struct {
	clientv3.KV
	parts chan clientv3.RangeStreamResponse
}

func (s streams) GetStream(context.Context, string, ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	return s.parts, nil
}

// A stream that ends before its last part is no whole state.
func TestScanCutShort(t *testing.T) {
	parts := make(chan clientv3.RangeStreamResponse, 1)
	parts <- clientv3.RangeStreamResponse{RangeResponse: &etcdserverpb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: []byte("/a/1")}}}}
	close(parts)
	s, err := New(Config{Client: &clientv3.Client{KV: streams{parts: parts}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.scan(t.Context(), "/a/", "/a0", 1, func([]*mvccpb.KeyValue) {}); err == nil {
		t.Error("a stream without an end is taken for all")
	}
}
