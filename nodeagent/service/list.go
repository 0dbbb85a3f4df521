package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/google/nftables"
	"github.com/podsnap/podsnap/nodeagent/nft"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// lister reads sets out of the kernel element by element: some have hundreds of
// thousands.
type lister struct{ handle nl.SocketHandle }

func newLister() (*lister, error) {
	here := netns.None() // the calling thread's own
	s, err := nl.GetNetlinkSocketAt(here, here, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter's netlink: %w", err)
	}
	limit := unix.NsecToTimeval(nft.AnswerTime.Nanoseconds())
	if err := errors.Join(s.SetReceiveTimeout(&limit), s.SetSendTimeout(&limit)); err != nil {
		s.Close()
		return nil, err
	}
	return &lister{handle: nl.SocketHandle{Socket: s}}, nil
}

func (l *lister) close() { l.handle.Close() }

func (l *lister) request(t *nftables.Table, what, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|what, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: &l.handle}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(t.Family), Version: unix.NFNETLINK_V0})
	return req
}

// body is a message without its struct nfgenmsg.
func body(msg []byte) []byte { return msg[min(len(msg), 4):] }

// rules counts those of a chain. They are not read: github.com/google/nftables
// v0.3.0 takes a connection's direction, which is one byte, for four, and refuses
// rules that ask for one.
func (l *lister) rules(t *nftables.Table, chain string) (n int, err error) {
	req := l.request(t, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	req.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.Name)))
	req.AddData(nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(chain)))
	err = req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func([]byte) bool { n++; return true })
	return n, err
}

// elements calls f for each element of a set.
func (l *lister) elements(t *nftables.Table, s set, f func(element)) error {
	req := l.request(t, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP)
	req.AddData(nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(t.Name)))
	req.AddData(nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(s.String())))
	var fault error
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		fault = parse(msg, s, f)
		return fault == nil
	})
	return errors.Join(err, fault)
}

var errShort = errors.New("an element that is cut off")

// parse reads one message: one of its attributes is the list of elements, each
// of which has a key and may have data.
func parse(msg []byte, s set, f func(element)) error {
	return attributes(body(msg), func(kind uint16, list []byte) error {
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return attributes(list, func(_ uint16, item []byte) error {
			var e element
			var end []byte
			err := attributes(item, func(kind uint16, data []byte) error {
				if kind != unix.NFTA_SET_ELEM_KEY && kind != unix.NFTA_SET_ELEM_DATA && kind != nftables.NFTA_SET_ELEM_KEY_END {
					return nil
				}
				return attributes(data, func(inner uint16, value []byte) error {
					switch {
					case inner != unix.NFTA_DATA_VALUE:
						return nil
					case kind == unix.NFTA_SET_ELEM_KEY && len(value) == s.keySize():
						copy(e.key[:], value)
						return nil
					case kind == nftables.NFTA_SET_ELEM_KEY_END && s.kind() == allowed && len(value) == s.keySize():
						end = value
						return nil
					case kind == unix.NFTA_SET_ELEM_DATA && s.isMap() && len(value) == s.valueSize():
						e.value = decodeBackend(value)
						return nil
					}
					return errShort
				})
			})
			if end != nil {
				e.key = s.withEnd(e.key, end)
			}
			if err == nil {
				f(e)
			}
			return err
		})
	})
}

// attributes calls f for each of a list.
func attributes(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) >= syscall.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & nl.NLA_TYPE_MASK
		if size < syscall.SizeofRtAttr || size > len(b) {
			return errShort
		}
		if err := f(kind, b[syscall.SizeofRtAttr:size]); err != nil {
			return err
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil
}
