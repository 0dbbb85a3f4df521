package main

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// networks is the network namespace: links, addresses, routes, neighbours,
// sockets, rules.
func networks() {
	all, err := net.Interfaces()
	say("links", fmt.Sprintf("%d %s", len(all), why(err)))
	for _, i := range all {
		addrs, _ := i.Addrs()
		say("link."+i.Name, fmt.Sprintf("%s mtu=%d mac=%s addresses=%v", i.Flags, i.MTU, i.HardwareAddr, addrs))
	}
	for _, f := range []string{"route", "arp", "if_inet6", "ipv6_route", "dev_mcast", "igmp", "packet", "raw", "netlink", "ip_tables_names", "vlan/config"} {
		v := text("/proc/net/" + f)
		if f == "netlink" || f == "packet" {
			v = fmt.Sprint(strings.Count(v, "\n"))
		}
		var rows []string
		for l := range strings.Lines(v) {
			rows = append(rows, strings.Join(strings.Fields(l), " "))
		}
		say("net."+f, strings.Join(rows, "|"))
	}
	say("ns.net cookie", cookie())
	if n, err := tcpMetrics(); err != nil {
		say("tcp metrics", why(err))
	} else {
		say("tcp metrics", n)
	}
	for _, f := range []string{"tcp", "tcp6", "udp", "udp6", "unix", "raw6", "icmp"} {
		b, err := os.ReadFile("/proc/net/" + f)
		say("sockets."+f, fmt.Sprintf("%d %s", max(0, strings.Count(string(b), "\n")-1), why(err)))
	}
}

// cookie is the network namespace's number, which no other ever has; that of
// its inode is given again.
func cookie() string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "!" + why(err)
	}
	defer unix.Close(fd)
	v, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return "!" + why(err)
	}
	return fmt.Sprint(v)
}

// tcpMetrics counts what the kernel remembers of former connections: with whom
// they were, above all. Anybody may ask.
func tcpMetrics() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	name := append([]byte("tcp_metrics"), 0)
	attr := append([]byte{byte(4 + len(name)), 0, unix.CTRL_ATTR_FAMILY_NAME, 0}, name...)
	id := 0
	err = generic(fd, unix.GENL_ID_CTRL, unix.NLM_F_REQUEST|unix.NLM_F_ACK, []byte{unix.CTRL_CMD_GETFAMILY, 1, 0, 0}, attr, func(body []byte) {
		for at := 4; at+4 <= len(body); { // behind the generic header: attributes
			size := int(binary.NativeEndian.Uint16(body[at:]))
			if size < 4 || at+size > len(body) {
				return
			}
			if binary.NativeEndian.Uint16(body[at+2:]) == unix.CTRL_ATTR_FAMILY_ID {
				id = int(binary.NativeEndian.Uint16(body[at+4:]))
			}
			at += (size + 3) &^ 3
		}
	})
	if err != nil {
		return 0, err
	}
	count := 0
	const get = 1 // TCP_METRICS_CMD_GET
	err = generic(fd, id, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, []byte{get, 1, 0, 0}, nil, func([]byte) { count++ })
	return count, err
}

// generic asks a family of generic netlink and passes each answer on.
func generic(fd, family, flags int, head, attrs []byte, each func(body []byte)) error {
	m := binary.NativeEndian.AppendUint32(nil, uint32(16+len(head)+(len(attrs)+3)&^3))
	m = binary.NativeEndian.AppendUint16(m, uint16(family))
	m = binary.NativeEndian.AppendUint16(m, uint16(flags))
	m = append(append(append(m, make([]byte, 8)...), head...), attrs...)
	m = append(m, make([]byte, (4-len(attrs)%4)%4)...)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		for at := 0; at+16 <= n; {
			size := int(binary.NativeEndian.Uint32(buf[at:]))
			if size < 16 || at+size > n {
				return unix.EBADMSG
			}
			body := buf[at+16 : at+size]
			switch binary.NativeEndian.Uint16(buf[at+4:]) {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
					return unix.Errno(-code)
				}
				return nil
			default:
				each(body)
			}
			at += (size + 3) &^ 3
		}
	}
}

// sysctls is every setting that can be read, but for counters.
func sysctls() {
	skip := []string{
		"kernel/random/", "kernel/ns_last_pid", "kernel/pty/nr", "fs/file-nr", "fs/inode-nr", "fs/inode-state", "fs/dentry-state", "fs/aio-nr", "fs/quota/",
		"nf_conntrack_count", "kernel/perf_event_max_sample_rate", "/base_reachable_time", "vm/stat_refresh", "net/core/bpf_jit", "kernel/sched_domain", "kernel/printk", "dev/",
		"net/ipv4/route/flush", "net/ipv6/route/flush", "fs/binfmt_misc/", "kernel/tainted", "/stable_secret", "tcp_fastopen_key", "kernel/core_pattern",
	}
	_ = filepath.WalkDir("/proc/sys", func(p string, d fs.DirEntry, err error) error {
		key := strings.TrimPrefix(p, "/proc/sys/")
		if err != nil || d.IsDir() || slices.ContainsFunc(skip, func(s string) bool { return strings.Contains(key, s) }) {
			return nil
		}
		if i, err := d.Info(); err != nil || i.Mode()&0o444 == 0 {
			return nil
		}
		say("sysctl."+strings.ReplaceAll(key, "/", "."), strings.Join(strings.Fields(text(p)), " "))
		return nil
	})
}

// ipc is what processes of one namespace leave to one another.
func ipc() {
	for _, f := range []string{"msg", "sem", "shm"} {
		say("sysvipc."+f, strings.Count(text("/proc/sysvipc/"+f), "\n"))
	}
	for _, d := range []string{"/dev/mqueue", "/dev/shm"} {
		say("list."+d, try("list", d))
	}
	// Abstract sockets belong to the network namespace: another container of
	// the pod may have one, another pod may not.
	c, err := net.Dial("unix", "@podsnap-probe")
	if err == nil {
		c.Close()
	}
	say("abstract socket", why(err))
}

// spoof sends datagrams to a host's port under foreign addresses, by a raw
// socket and by a socket bound to an address that it does not have, then an
// honest one.
func spoof(to string, foreign []string) {
	dst, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, f := range foreign {
		src := net.ParseIP(f).To4()
		say("spoof.raw."+f, why(rawDatagram(src, dst, "by a raw socket, as "+f)))
		say("spoof.freebind."+f, why(freebind(src, dst, "by freebind, as "+f)))
	}
	c, err := net.Dial("udp4", to)
	if err == nil {
		_, err = c.Write([]byte("honest"))
	}
	say("spoof.honest", why(err))
	fmt.Fprintln(out, end)
	out.Flush()
}

func rawDatagram(src net.IP, dst *net.UDPAddr, body string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	total := 28 + len(body)
	p := []byte{
		0x45, 0, byte(total >> 8), byte(total), 0, 0, 0, 0, 64, 17, 0, 0, // the kernel fills in the checksum
		src[0], src[1], src[2], src[3], dst.IP.To4()[0], dst.IP.To4()[1], dst.IP.To4()[2], dst.IP.To4()[3],
		0x30, 0x39, byte(dst.Port >> 8), byte(dst.Port), byte((8 + len(body)) >> 8), byte(8 + len(body)), 0, 0, // no checksum of UDP
	}
	return unix.Sendto(fd, append(p, body...), 0, &unix.SockaddrInet4{Addr: [4]byte(dst.IP.To4())})
}

func freebind(src net.IP, dst *net.UDPAddr, body string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(src)}); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte(body), 0, &unix.SockaddrInet4{Port: dst.Port, Addr: [4]byte(dst.IP.To4())})
}
