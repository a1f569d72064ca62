import time, threading
from tests.kernel.netns import *
from tests.kernel.test_nftset import *
from tests.kernel.conftest import *
def test_x(mail_host):
    with loaded(TableSpec(ports=(25,), timeouts={"established": 777})) as k:
        with inside(mail_host.peers):
            c = connect(PEER4, "192.0.2.1", 25); established(c, 5)
        s,_ = mail_host.listeners[25].accept()
        show=lambda: print(run("conntrack -L -o extended -p tcp --dport 25").split()[4])
        show(); k.load({}); show(); c.send(b'x'); s.recv(1); time.sleep(.1); show()
        c.close(); s.close()
        # host latency during prefix change at 10k
        k.table.load({(BLOCK, IPv4Network((0x14000000+i*256,25))): time.time()+3600 for i in range(10000)}, time.time())
        th=threading.Thread(target=lambda:[k.put(BLOCK,f"99.0.{i}.0/24") for i in range(5)]); th.start()
        ts=[]
        i=0
        while th.is_alive():
            a=time.perf_counter(); k.put(BLOCK,f"11.0.{i>>8}.{i&255}"); ts.append(time.perf_counter()-a); i+=1; time.sleep(.002)
        ts.sort(); print('hosts during prefix changes', len(ts), 'median', ts[len(ts)//2], 'p99', ts[-len(ts)//100-1], 'max', ts[-1])
