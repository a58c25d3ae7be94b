"""The scraper's tasks."""

from notes import note
from scraper import app

NAMES = {"https://news.example": "crawl-news", "https://archive.example": "crawl-archive"}


@app.task(bind=True, max_retries=2, default_retry_delay=1)
def crawl(self, url):
    """Fetch a site, in two steps."""
    note(NAMES[url], self.request.delivery_info.get("priority"))
    return {"url": url, "pages": 3}


@app.task(ignore_result=True)
def index_pages():
    """Index the fetched pages."""
    note("index-pages")


@app.task
def clean_up(keep):
    """Delete old pages."""
    note("clean-up", keep["days"])
